#include "options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

enum { FIRST = 256 };

static double number(const char *name, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (*text == 0 || *end != 0 || value < 0) {
        fprintf(stderr, "loadgen: --%s wants a number, not '%s'\n", name, text);
        exit(2);
    }
    return value;
}

/* "7600" or, for a cluster, "7600,7601,7602". */
static unsigned parse_ports(const char *text, unsigned ports[NODES_MAX])
{
    unsigned count = 0;
    char *end = NULL;
    do {
        unsigned long port = strtoul(end ? end + 1 : text, &end, 10);
        if (count == NODES_MAX || port == 0 || port > 65535)
            return 0;
        ports[count++] = (unsigned)port;
    } while (*end == ',');
    return *end ? 0 : count;
}

struct options options_parse(int count, char **words)
{
    static const struct option names[] = {
        {"dialect", 1, 0, FIRST},      {"port", 1, 0, FIRST + 1},
        {"rooms", 1, 0, FIRST + 2},    {"subscribers", 1, 0, FIRST + 3},
        {"payload", 1, 0, FIRST + 4},  {"window", 1, 0, FIRST + 5},
        {"rate", 1, 0, FIRST + 6},     {"warmup", 1, 0, FIRST + 7},
        {"seconds", 1, 0, FIRST + 8},  {"frames", 1, 0, FIRST + 9},
        {"key-every", 1, 0, FIRST + 10}, {"reliable", 1, 0, FIRST + 11},
        {"gather-ms", 1, 0, FIRST + 12}, {"stalled", 1, 0, FIRST + 13},
        {"hold-ms", 1, 0, FIRST + 14}, {"joiners", 1, 0, FIRST + 15},
        {"join-at", 1, 0, FIRST + 16}, {"join-over", 1, 0, FIRST + 17},
        {"spin", 1, 0, FIRST + 18},      {"web-port", 1, 0, FIRST + 19},
        {"subscriber-dialect", 1, 0, FIRST + 20},
        {0, 0, 0, 0},
    };
    struct options options = {
        .dialect = "raw", .rooms = 1, .subscribers = 1, .payload_bytes = 128,
        .warmup_s = 0.5, .seconds = 3, .key_every = 60,
    };
    int key, index = 0;
    while ((key = getopt_long(count, words, "", names, &index)) != -1) {
        if (key < FIRST)
            exit(2);
        if (key == FIRST) {
            options.dialect = optarg;
            continue;
        }
        if (key == FIRST + 1) {
            options.nodes = parse_ports(optarg, options.ports);
            continue;
        }
        if (key == FIRST + 20) {
            options.subscriber_dialect = optarg;
            continue;
        }
        double value = number(names[key - FIRST].name, optarg);
        switch (key - FIRST) {
        case 2: options.rooms = (unsigned)value; break;
        case 3: options.subscribers = (unsigned)value; break;
        case 4: options.payload_bytes = (unsigned)value; break;
        case 5: options.window = (unsigned)value; break;
        case 6: options.rate = value; break;
        case 7: options.warmup_s = value; break;
        case 8: options.seconds = value; break;
        case 9: options.frames = (uint64_t)value; break;
        case 10: options.key_every = (unsigned)value; break;
        case 11: options.reliable = (unsigned)value; break;
        case 12: options.gather_ms = (unsigned)value; break;
        case 13: options.stalled = (unsigned)value; break;
        case 14: options.hold_ms = (unsigned)value; break;
        case 15: options.joiners = (unsigned)value; break;
        case 16: options.join_at_s = value; break;
        case 17: options.join_over_s = value; break;
        case 18: options.spin = (unsigned)value; break;
        case 19: options.web_port = (unsigned)value; break;
        }
    }
    if (!options.subscriber_dialect)
        options.subscriber_dialect = options.dialect;
    const char *wrong = NULL;
    if (optind < count)
        wrong = "unexpected words";
    else if (options.nodes == 0)
        wrong = "--port is missing, or one of it is no port";
    else if (options.nodes > 1 && options.web_port)
        wrong = "--web-port is for one server";
    else if (options.web_port > 65535)
        wrong = "--web-port is no port";
    else if (options.reliable && options.web_port)
        wrong = "--reliable is for TCP";
    else if (options.payload_bytes < 24 || options.payload_bytes > 512 * 1024)
        wrong = "--payload must be 24 to 524288";
    else if (options.rooms == 0 || options.rooms > 1000 || options.subscribers > 20000)
        wrong = "too few or too many rooms or subscribers";
    else if (options.window && options.rate > 0)
        wrong = "--window and --rate exclude each other";
    else if (options.joiners && options.window)
        wrong = "--joiners needs --rate";
    else if (options.key_every == 0)
        wrong = "--key-every must be at least 1";
    if (wrong) {
        fprintf(stderr, "loadgen: %s\n", wrong);
        exit(2);
    }
    return options;
}
