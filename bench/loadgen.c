/* The load generator: one publisher and many subscribers per room, in one thread.
 *
 * It works in lockstep with the harness, which reads the server's CPU time around the
 * measured phase, while nothing is in flight:
 *
 *   ready            all are connected and subscribed   <- go
 *                    warm-up, drained
 *   measure-start                                       <- go
 *                    the measured phase, drained
 *   measure-end                                         <- go
 *   {...}            one line of JSON, and the end
 *
 * Every delivery is checked: its number is the one after the last, its payload is what
 * was sent. The first wrong byte ends the run with {"error": ...}.
 */
#define _GNU_SOURCE
#include "traffic.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static const uint64_t second_ns = 1000000000ull;
static const uint64_t stuck_ns = 15 * 1000000000ull;

static void say(const char *word)
{
    char answer[16];
    puts(word);
    fflush(stdout);
    if (!fgets(answer, sizeof answer, stdin) || strcmp(answer, "go\n") != 0)
        exit(3); /* the harness is gone */
}

static double own_cpu_s(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void drain(struct traffic *traffic)
{
    uint64_t deadline = now_ns() + stuck_ns;
    traffic->publishing = false;
    while (!traffic_drained(traffic)) {
        traffic_poll(traffic, 1000000);
        if (now_ns() > deadline)
            fail("not everything arrived within 15 s");
    }
}

static void start_joiners(struct traffic *traffic, unsigned *started, uint64_t now)
{
    const struct options *options = &traffic->options;
    while (*started < options->joiners && now >= traffic->join_ns) {
        double share = (double)*started / options->joiners;
        if (now < traffic->join_ns + (uint64_t)(share * options->join_over_s * 1e9))
            return;
        traffic_start_conn(traffic, &traffic->joiners[(*started)++]);
    }
}

/* Publish until `until_ns`, or until stop_at frames have been sent; then drain. */
static void publish(struct traffic *traffic, uint64_t until_ns)
{
    const struct options *options = &traffic->options;
    unsigned started = 0;
    uint64_t now = now_ns(), moved_ns = now, last = 0;
    traffic->publishing = true;
    traffic_schedule(traffic, now);
    while (now < until_ns && traffic->rooms[0].sent < traffic->stop_at) {
        traffic_pump(traffic, now);
        uint64_t wait = until_ns - now;
        if (traffic->join_ns && started < options->joiners)
            wait = 200000;
        traffic_poll(traffic, wait < second_ns ? wait : second_ns);
        now = now_ns();
        if (traffic->join_ns)
            start_joiners(traffic, &started, now);
        if (traffic->counters->deliveries != last) {
            last = traffic->counters->deliveries;
            moved_ns = now;
        } else if ((options->window || options->rate > 0) && now - moved_ns > stuck_ns) {
            fail("nothing arrived for 15 s");
        }
    }
    drain(traffic);
}

static void print_histogram(const char *name, const struct histogram *histogram)
{
    printf(", \"%s\": {\"count\": %lu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, "
           "\"buckets\": [",
           name, histogram->total, (double)histogram_quantile(histogram, 0.5) / 1e3,
           (double)histogram_quantile(histogram, 0.99) / 1e3, (double)histogram->largest / 1e3);
    const char *comma = "";
    for (unsigned at = 0; at < HISTOGRAM_BUCKETS; at++)
        if (histogram->count[at]) {
            printf("%s[%lu,%lu]", comma, histogram_value(at), histogram->count[at]);
            comma = ",";
        }
    printf("]}");
}

static void print_stalled(const struct traffic *traffic)
{
    const char *comma = "";
    printf(", \"stalled\": [");
    for (unsigned i = 0; i < traffic->options.stalled; i++) {
        const struct conn *conn = &traffic->stalled[i];
        printf("%s{\"ended\": \"%s\", \"close_code\": %u, \"frames\": %lu, \"gap_frames\": %lu, "
               "\"bytes\": %lu}",
               comma, conn->ended, conn->close_code, conn->frames, conn->gap_frames, conn->bytes);
        comma = ",";
    }
    printf("]");
}

/* Sit still, then read what the stalled ones were left with. */
static void finish_stalled(struct traffic *traffic)
{
    uint64_t until = now_ns() + traffic->options.hold_ms * 1000000ull;
    for (uint64_t now = now_ns(); now < until; now = now_ns())
        traffic_poll(traffic, until - now);
    traffic_read_stalled(traffic, 5000);
}

int main(int count, char **words)
{
    static struct traffic traffic;
    static struct counters counters;
    const struct options options = options_parse(count, words);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_TIMERSLACK, 1ul);
    traffic.options = options;
    traffic.dialect = dialect_by_name(options.dialect);
    traffic.subscriber_dialect = dialect_by_name(options.subscriber_dialect);
    if (!traffic.dialect || !traffic.subscriber_dialect) {
        fprintf(stderr, "loadgen: no dialect '%s' or '%s'\n", options.dialect,
                options.subscriber_dialect);
        return 2;
    }
    traffic.counters = &counters;
    traffic.epoll = epoll_create1(EPOLL_CLOEXEC);
    alarm(120 + (unsigned)(options.warmup_s + options.seconds) + options.hold_ms / 1000);

    traffic_open(&traffic);
    say("ready");
    traffic_park_stalled(&traffic);
    traffic.stop_at = UINT64_MAX;
    publish(&traffic, now_ns() + (uint64_t)(options.warmup_s * 1e9));

    uint64_t lost_before = counters.lost;
    say("measure-start");
    memset(&counters, 0, sizeof counters);
    uint64_t frames_before = traffic.rooms[0].sent;
    double cpu_before = own_cpu_s();
    uint64_t start = now_ns();
    if (options.frames)
        traffic.stop_at = frames_before + options.frames;
    if (options.joiners)
        traffic.join_ns = start + (uint64_t)(options.join_at_s * 1e9);
    publish(&traffic, start + (uint64_t)(options.seconds * 1e9));
    double cpu_s = own_cpu_s() - cpu_before;
    uint64_t end = counters.last_ns ? counters.last_ns : now_ns();
    say("measure-end");

    if (options.stalled)
        finish_stalled(&traffic);
    traffic_remove_rooms(&traffic);
    printf("{\"frames\": %lu, \"deliveries\": %lu, \"bytes\": %lu, \"lost\": %lu, "
           "\"wall_s\": %.6f, \"cpu_s\": %.6f, \"joined\": %lu",
           traffic.rooms[0].sent - frames_before, counters.deliveries, counters.bytes,
           counters.lost + lost_before, (double)(end - start) / 1e9, cpu_s, counters.joined);
    print_histogram("latency", &counters.latency);
    if (options.nodes > 1) {
        print_histogram("latency_near", &counters.latency_near);
        print_histogram("latency_far", &counters.latency_far);
    }
    if (options.rate > 0)
        print_histogram("late", &counters.late);
    if (options.joiners) {
        print_histogram("latency_join", &counters.latency_join);
        print_histogram("first_frame", &counters.first_frame);
    }
    if (options.stalled)
        print_stalled(&traffic);
    puts("}");
    return 0;
}
