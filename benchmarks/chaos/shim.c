/* Loaded into a neuron before the C library: another clock, and other ports.
 *
 * CHAOS_CLOCK names a file of one int64, the seconds by which this process's wall clock is
 * off; it may change at any moment. CHAOS_PORTS ("8333:21001,9944:21002") names, for ports on
 * loopback, those to connect to instead. The monotonic clock stays as it is, as it does when
 * the time of a machine is set.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define MAX_PORTS 8

static const volatile int64_t *shared_offset_s;
static unsigned from_ports[MAX_PORTS], to_ports[MAX_PORTS];
static int num_ports;

__attribute__((constructor)) static void read_environment(void) {
    const char *path = getenv("CHAOS_CLOCK");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
        if (page != MAP_FAILED) shared_offset_s = page;
        close(file);
    }
    const char *rest = getenv("CHAOS_PORTS");
    int used = 0;
    while (rest != NULL && num_ports < MAX_PORTS &&
           sscanf(rest, "%u:%u%n", &from_ports[num_ports], &to_ports[num_ports], &used) == 2) {
        num_ports++;
        rest += used;
        if (*rest == ',') rest++;
    }
}

static int64_t offset_s(void) { return shared_offset_s == NULL ? 0 : *shared_offset_s; }

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(id, now);
    if (status == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        now->tv_sec += offset_s();
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    static int (*real)(struct timeval *, void *);
    if (real == NULL) real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
    int status = real(now, zone);
    if (status == 0) now->tv_sec += offset_s();
    return status;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL) *out = now.tv_sec;
    return now.tv_sec;
}

/* Its deadline is a time of the wall clock: the kernel's is not off. */
int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict end) {
    static int (*real)(sem_t *, const struct timespec *);
    if (real == NULL) real = (int (*)(sem_t *, const struct timespec *))dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec moved = *end;
    moved.tv_sec -= offset_s();
    return real(semaphore, &moved);
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    static int (*real)(int, const struct sockaddr *, socklen_t);
    if (real == NULL) real = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
    struct sockaddr_in other;
    if (address == NULL || address->sa_family != AF_INET || length < sizeof other)
        return real(fd, address, length);
    memcpy(&other, address, sizeof other);
    if (other.sin_addr.s_addr == htonl(INADDR_LOOPBACK))
        for (int i = 0; i < num_ports; i++)
            if (ntohs(other.sin_port) == from_ports[i]) {
                other.sin_port = htons((uint16_t)to_ports[i]);
                break;
            }
    return real(fd, (const struct sockaddr *)&other, sizeof other);
}
