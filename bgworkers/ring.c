/*
 * ring.c
 *	  The memory shared by the gateway and its executors; see ring.h.
 *
 * Sleeping and ringing are Dekker's pattern: each side writes its word, then reads
 * the other's, both sequentially consistent, so that at least one sees the other.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE				/* PostgreSQL's flags have it */
#endif
#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC	0x4f52494eu
#define SEALS	(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

#define LOAD(p)		__atomic_load_n(p, __ATOMIC_SEQ_CST)
#define STORE(p, v)	__atomic_store_n(p, v, __ATOMIC_SEQ_CST)

static bool
swap(uint64_t *word, uint64_t from, uint64_t to)
{
	return __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* --- memory ------------------------------------------------------------------ */

void
orion_ring_init(OrionRing *ring)
{
	ring->magic = MAGIC;
	ring->size = sizeof(*ring);
	for (int i = 0; i < ORION_RING_SLOTS; i++)
		STORE(&ring->state[i], (uint64_t) ORION_RING_NOBODY);
}

OrionRing *
orion_ring_create(int *memory)
{
	OrionRing  *ring = MAP_FAILED;
	int			fd = memfd_create("orion-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && ftruncate(fd, sizeof(*ring)) == 0 && fcntl(fd, F_ADD_SEALS, SEALS) == 0)
		ring = mmap(NULL, sizeof(*ring), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ring == MAP_FAILED)
	{
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	madvise(ring, sizeof(*ring), MADV_DONTDUMP);	/* it holds passwords */
	orion_ring_init(ring);
	*memory = fd;
	return ring;
}

/* The seals make sure that no page can be taken away under an executor. */
OrionRing *
orion_ring_attach(int memory)
{
	OrionRing  *ring;
	struct stat st;
	int			seals = fcntl(memory, F_GET_SEALS);

	if (seals < 0 || (seals & SEALS) != SEALS || fstat(memory, &st) < 0 || st.st_size != sizeof(*ring))
		return NULL;
	ring = mmap(NULL, sizeof(*ring), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	if (ring == MAP_FAILED)
		return NULL;
	madvise(ring, sizeof(*ring), MADV_DONTDUMP);
	if (ring->magic == MAGIC && ring->size == sizeof(*ring))
		return ring;
	orion_ring_detach(ring);
	return NULL;
}

void
orion_ring_detach(OrionRing *ring)
{
	munmap(ring, sizeof(*ring));
}

bool
orion_ring_pass(int sock, const void *bytes, size_t len, int memory, int bell)
{
	union
	{
		struct cmsghdr align;
		char		space[CMSG_SPACE(2 * sizeof(int))];
	}			control = {0};
	int			fds[2] = {memory, bell};
	struct iovec iov = {(void *) bytes, len};
	struct msghdr msg = {.msg_iov = &iov,.msg_iovlen = 1,.msg_control = &control,.msg_controllen = sizeof(control)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(cmsg), fds, sizeof(fds));
	return sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t) len;
}

long
orion_ring_receive(int sock, void *bytes, size_t len, int *memory, int *bell)
{
	union
	{
		struct cmsghdr align;
		char		space[CMSG_SPACE(2 * sizeof(int))];
	}			control;
	int			fds[2] = {-1, -1};
	struct iovec iov = {bytes, len};
	struct msghdr msg = {.msg_iov = &iov,.msg_iovlen = 1,.msg_control = &control,.msg_controllen = sizeof(control)};
	ssize_t		n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *cmsg = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;

	if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS &&
		cmsg->cmsg_len >= CMSG_LEN(sizeof(int)) && cmsg->cmsg_len <= CMSG_LEN(sizeof(fds)))
		memcpy(fds, CMSG_DATA(cmsg), cmsg->cmsg_len - CMSG_LEN(0));
	*memory = fds[0];
	*bell = fds[1];
	return n;
}

bool
orion_ring_copy(const OrionRing *ring, int slot, uint8_t *out, uint32_t *len)
{
	*len = LOAD(&ring->slots[slot].len);
	if (*len > ORION_RING_ROOM)
		return false;
	memcpy(out, ring->slots[slot].data, *len);
	return true;
}

/* --- the gateway's side --------------------------------------------------------- */

void
orion_ring_lane_init(OrionRing *ring, int lane)
{
	STORE(&ring->lanes[lane].asleep, 0);
	STORE(&ring->lanes[lane].done_tail, 0);
}

uint8_t *
orion_ring_data(OrionRing *ring, int slot)
{
	return ring->slots[slot].data;
}

uint32_t
orion_ring_waiting(const OrionRing *ring)
{
	return LOAD(&ring->tail) - LOAD(&ring->head);
}

bool
orion_ring_push(OrionRing *ring, int slot, uint64_t id, uint32_t len)
{
	uint32_t	tail = LOAD(&ring->tail);

	if (orion_ring_waiting(ring) >= ORION_RING_QUEUE)
		return false;
	STORE(&ring->slots[slot].len, len);
	STORE(&ring->queue[tail % ORION_RING_QUEUE], id << 8 | slot);
	STORE(&ring->state[slot], id << 8);
	STORE(&ring->tail, tail + 1);
	return true;
}

int
orion_ring_owner(const OrionRing *ring, int slot, uint64_t id)
{
	uint64_t	state = LOAD(&ring->state[slot]);
	int			owner = state & 127;

	return state >> 8 == id && owner >= 1 && owner <= ORION_RING_LANES ? owner - 1 : -1;
}

bool
orion_ring_withdraw(OrionRing *ring, int slot, uint64_t id)
{
	return swap(&ring->state[slot], id << 8, id << 8 | ORION_RING_NOBODY);
}

void
orion_ring_cancel(OrionRing *ring, int slot)
{
	__atomic_fetch_or(&ring->state[slot], (uint64_t) ORION_RING_CANCELLED, __ATOMIC_SEQ_CST);
}

bool
orion_ring_has_done(const OrionRing *ring, int lane, uint32_t done_head)
{
	return LOAD(&ring->lanes[lane].done_tail) != done_head;
}

int
orion_ring_take_done(const OrionRing *ring, int lane, uint32_t *done_head)
{
	uint32_t	count = LOAD(&ring->lanes[lane].done_tail) - *done_head;
	uint32_t	slot;

	if (count == 0)
		return -1;
	slot = LOAD(&ring->lanes[lane].done[*done_head % ORION_RING_SLOTS]);
	if (count > ORION_RING_SLOTS || slot >= ORION_RING_SLOTS)
		return -2;
	*done_head += 1;
	return (int) slot;
}

bool
orion_ring_is_asleep(const OrionRing *ring, int lane)
{
	return LOAD(&ring->lanes[lane].asleep) != 0;
}

bool
orion_ring_wake(OrionRing *ring, int lane)
{
	return orion_ring_is_asleep(ring, lane) && __atomic_exchange_n(&ring->lanes[lane].asleep, 0, __ATOMIC_SEQ_CST) != 0;
}

void
orion_ring_gateway_sleep(OrionRing *ring, bool asleep)
{
	STORE(&ring->gateway_asleep, asleep);
}

/* --- an executor's side ---------------------------------------------------------- */

/*
 * Whoever finds the entry at the head taken or withdrawn moves the head on, so
 * nobody waits for one who was stopped in between.
 */
int
orion_ring_claim(OrionRing *ring, int lane, uint64_t *id, uint32_t *place)
{
	for (int i = 0; i < 4 * ORION_RING_QUEUE; i++)
	{
		uint32_t	head = LOAD(&ring->head);
		uint32_t	next = head;
		uint64_t	entry;
		uint64_t	waiting;
		bool		won;

		if (LOAD(&ring->tail) == head)
			return -1;
		entry = LOAD(&ring->queue[head % ORION_RING_QUEUE]);
		if (LOAD(&ring->head) != head)
			continue;			/* it may be one that has taken that place
								 * since */
		if ((entry & 255) >= ORION_RING_SLOTS)
			return -2;
		waiting = entry & ~(uint64_t) 255;
		won = swap(&ring->state[entry & 255], waiting, waiting | (lane + 1));
		__atomic_compare_exchange_n(&ring->head, &next, head + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		if (won)
		{
			*id = entry >> 8;
			*place = head;
			return entry & 255;
		}
	}
	return LOAD(&ring->tail) - LOAD(&ring->head) > ORION_RING_QUEUE ? -2 : -1;
}

uint32_t
orion_ring_end(const OrionRing *ring)
{
	return LOAD(&ring->tail);
}

bool
orion_ring_is_cancelled(const OrionRing *ring, int slot, uint64_t id, int lane)
{
	return LOAD(&ring->state[slot]) != (id << 8 | (lane + 1));
}

bool
orion_ring_done(OrionRing *ring, int lane, int slot, const uint8_t *data, uint32_t len)
{
	OrionRingLane *mine = &ring->lanes[lane];
	uint32_t	tail = LOAD(&mine->done_tail);

	if (len > 0)
		memcpy(ring->slots[slot].data, data, len);
	STORE(&ring->slots[slot].len, len);
	STORE(&mine->done[tail % ORION_RING_SLOTS], slot);
	STORE(&mine->done_tail, tail + 1);
	return LOAD(&ring->gateway_asleep) && __atomic_exchange_n(&ring->gateway_asleep, 0, __ATOMIC_SEQ_CST);
}

bool
orion_ring_sleep(OrionRing *ring, int lane)
{
	STORE(&ring->lanes[lane].asleep, 1);
	if (LOAD(&ring->tail) == LOAD(&ring->head))
		return true;
	STORE(&ring->lanes[lane].asleep, 0);
	return false;
}

void
orion_ring_wake_up(OrionRing *ring, int lane)
{
	if (LOAD(&ring->lanes[lane].asleep))
		STORE(&ring->lanes[lane].asleep, 0);
}
