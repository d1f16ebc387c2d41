/* Slows a server down honestly: each time that it makes a file durable it computes for so long first.
   Loaded into an unchanged build by LD_PRELOAD; see gate.py. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long used_micros(void) {
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

static void compute(void) {
	const char *asked = getenv("SLOWER_MICROS");
	long until = used_micros() + (asked ? atol(asked) : 0);
	while (used_micros() < until) {
	}
}

int fsync(int file) {
	compute();
	return (int)syscall(SYS_fsync, file);
}

int fdatasync(int file) {
	compute();
	return (int)syscall(SYS_fdatasync, file);
}
