/* What the load generator is told on its command line. */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum { NODES_MAX = 8 };

struct options {
    const char *dialect;
    const char *subscriber_dialect; /* of all but publishers */
    unsigned nodes;         /* servers that form one: publishers are at the first, and
                               subscribers at each in turn */
    unsigned ports[NODES_MAX]; /* on 127.0.0.1, and nowhere else */
    unsigned web_port;      /* of WebSocket, for all but publishers; 0: all speak TCP */
    unsigned rooms;         /* each with one publisher */
    unsigned subscribers;   /* per room */
    unsigned payload_bytes; /* at least 24 */
    unsigned window;        /* frames in flight; 0: paced */
    double rate;            /* frames per second and room; 0 with window 0: idle */
    double warmup_s;
    double seconds;      /* of the measured phase */
    uint64_t frames;     /* ends the measured phase after so many; 0: by time */
    unsigned key_every;  /* tim: frames from one KEY to the next */
    unsigned reliable;   /* tim: mode of the rooms */
    unsigned gather_ms;  /* tim: of the rooms */
    unsigned stalled;    /* more subscribers of room 0, that stop reading at the warm-up */
    unsigned hold_ms;    /* how long the stalled ones sit still after the measured phase */
    unsigned joiners;    /* subscribers that come during the measured phase */
    double join_at_s;    /* after its start */
    unsigned spin;          /* never sleep while publishing */
    double join_over_s;  /* the last one starts that much after the first */
};

/* Prints what is wrong and exits with status 2. */
struct options options_parse(int count, char **words);

#endif
