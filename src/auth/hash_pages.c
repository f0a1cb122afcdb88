/*
 * hash_pages.c
 *	  Gives the memory of a password hash huge pages.
 *
 * libsodium maps the memory of an Argon2 hash anew for each (19 MB by default) and
 * offers no way to bring one's own.  In pages of 4 kB half of a hash's time is the
 * kernel handing out 4,864 of them; in pages of 2 MB it is ten, and a hash takes two
 * thirds of the time.  To keep the memory would be faster still, but every
 * connection that ever signed somebody in would hold it.
 *
 * So orion.so carries libsodium within it (libsodium.a), and the linker's --wrap
 * brings its mmap and munmap here.  Where the kernel has no huge pages to give
 * (/sys/kernel/mm/transparent_hugepage/enabled says never, or memory is fragmented)
 * the advice does nothing.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#define HUGE_PAGE	((size_t) 2 * 1024 * 1024)

#define HIDDEN __attribute__((visibility("hidden")))

extern void *__real_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset);
extern HIDDEN void *__wrap_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset);

/* mmap(2); new private memory of a huge page or more begins on the boundary of one. */
void *
__wrap_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	char	   *start;
	size_t		before;

	if (addr || (flags & (MAP_ANONYMOUS | MAP_PRIVATE)) != (MAP_ANONYMOUS | MAP_PRIVATE) ||
		length < HUGE_PAGE || length > SIZE_MAX - HUGE_PAGE)
		return __real_mmap(addr, length, prot, flags, fd, offset);
	/* without MAP_POPULATE, which would fill in small pages */
	start = __real_mmap(NULL, length + HUGE_PAGE, prot, flags & ~MAP_POPULATE, fd, offset);
	if (start == MAP_FAILED)
		return MAP_FAILED;
	before = (HUGE_PAGE - (uintptr_t) start % HUGE_PAGE) % HUGE_PAGE;
	if (before > 0)
		munmap(start, before);
	start += before;
	munmap(start + length, HUGE_PAGE - before);
	madvise(start, length, MADV_HUGEPAGE);
	return start;
}
