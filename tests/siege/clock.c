/* The wall clock of a server, off by as much as the test says.
 *
 * tests/siege builds it with the C compiler and has it loaded before the C library (LD_PRELOAD): the program under test stays as it ships.
 * SIEGE_CLOCK names a file of 8 bytes, the nanoseconds to add; it may change at any time. Clocks that nobody can set are let alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int (*real)(clockid_t, struct timespec *);
static const volatile int64_t *shift;

__attribute__((constructor)) static void find(void)
{
	const char *path = getenv("SIEGE_CLOCK");
	real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (file < 0)
		return;
	void *page = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
	close(file);
	if (page != MAP_FAILED)
		shift = page;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
	if (!real)
		find();
	int failed = real(clock, time);
	if (failed || !shift || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
		return failed;
	int64_t nanos = time->tv_nsec + *shift % 1000000000;
	time->tv_sec += *shift / 1000000000;
	if (nanos < 0) {
		nanos += 1000000000;
		time->tv_sec--;
	} else if (nanos >= 1000000000) {
		nanos -= 1000000000;
		time->tv_sec++;
	}
	time->tv_nsec = nanos;
	return 0;
}
