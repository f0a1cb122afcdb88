# Orion: `make up` starts it, `make check` tests it, `make down` stops it.
#
# One ordered list carries the tree. It is the build order, the layer order (a
# module includes only earlier ones), the order of the SQL in orion--1.0.sql, the
# order of the calls in _PG_init and the order of the regression tests.

ORION_MODULES = core codec seal token audit auth session rbac apikey profile account mfa record contract outbox operate cache track webhook inbound rest

# These need no PostgreSQL to be installed yet, and know nothing of what follows.
DEV_GOALS = up down check check-17 check-kafka check-faults try-clean bench fuzz soak indent
ifneq ($(filter $(DEV_GOALS),$(MAKECMDGOALS)),)
$(DEV_GOALS):
	@dev/$@
.PHONY: $(DEV_GOALS)
else

EXTENSION   = orion
MODULE_big  = orion
PGFILEDESC  = "orion - a complete backend in the database"
DATA        = orion--1.0.sql	# not DATA_built: `make clean` would delete a tracked file

SRCS  = src/orion.c $(foreach m,$(ORION_MODULES),$(wildcard src/$(m)/*.c)) $(wildcard bgworkers/*.c)
OBJS  = $(SRCS:.c=.o)
PARTS = $(foreach m,$(ORION_MODULES),$(wildcard src/$(m)/$(m).sql))

# Programs that speak network protocols; they include no Postgres header.
PROGRAMS      = $(foreach p,gateway courier,$(if $(wildcard bgworkers/$(p)/*.c),orion-$(p)))
PROGRAM_CODE  = bgworkers/frame.c $(wildcard src/codec/*.c)
GATEWAY_SRCS  = $(wildcard bgworkers/gateway/*.c) bgworkers/ring.c $(PROGRAM_CODE)
COURIER_SRCS  = $(wildcard bgworkers/courier/*.c) $(PROGRAM_CODE)
GATEWAY_LIBS  = -lmicrohttpd -ljansson -lgnutls
COURIER_LIBS  = -lhiredis -lrabbitmq -lrdkafka -ljansson -lssl -lcrypto -lcurl -lsodium
WARNINGS      = -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
PROGRAM_FLAGS = -std=gnu11 -O2 -g $(WARNINGS) -fstack-protector-strong -D_FORTIFY_SOURCE=2 -fPIE -pie
ifdef SANITIZE	# make SANITIZE=1 programs
PROGRAM_FLAGS = -std=gnu11 -O1 -g $(WARNINGS) -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
endif

PG_CPPFLAGS  = -I$(srcdir)/src -I$(srcdir)/bgworkers $(WARNINGS) $(if $(ASSERT),-DUSE_ASSERT_CHECKING)
# libsodium is linked statically for the sake of src/auth/hash_pages.c
SHLIB_LINK   = -Wl,-Bstatic -lsodium -Wl,-Bdynamic -Wl,--exclude-libs,libsodium.a -Wl,--wrap=mmap -lcrypt -lcrypto -lz -loath -lqrencode -ldl
EXTRA_CLEAN  = $(PROGRAMS)
with_llvm    = no	# bitcode doubles the build and no function of ours is inlined

# pg_regress, isolation and the rest are driven by dev/check, not by installcheck.
PG_CONFIG ?= pg_config
ifneq ($(shell which $(PG_CONFIG) 2>/dev/null),)
PGXS := $(shell $(PG_CONFIG) --pgxs)
endif
ifneq ($(wildcard $(PGXS)),)
override with_llvm = no
include $(PGXS)
override with_llvm = no

$(OBJS): $(wildcard src/*/*.h bgworkers/*.h)
endif

all: $(DATA) programs

programs: $(PROGRAMS)

orion-gateway: $(GATEWAY_SRCS) $(wildcard bgworkers/gateway/*.h bgworkers/frame.h bgworkers/ring.h src/codec/*.h)
	$(CC) $(PROGRAM_FLAGS) -Isrc -Ibgworkers -o $@ $(GATEWAY_SRCS) $(GATEWAY_LIBS)

orion-courier: $(COURIER_SRCS) $(wildcard bgworkers/courier/*.h bgworkers/frame.h src/codec/*.h)
	$(CC) $(PROGRAM_FLAGS) -Isrc -Ibgworkers -o $@ $(COURIER_SRCS) $(COURIER_LIBS)

# The install script is the modules' SQL, one after the other. It is committed, and
# `dev/gates` rebuilds and compares it. After a merge conflict: rebuild, never edit.
$(DATA): $(PARTS) Makefile
	dev/assemble-sql $(PARTS) > $@.tmp && mv $@.tmp $@

install: install-programs
install-programs: programs
	$(MKDIR_P) '$(DESTDIR)$(bindir)'
	$(if $(PROGRAMS),$(INSTALL_PROGRAM) $(PROGRAMS) '$(DESTDIR)$(bindir)')

# What dev/ asks make for: `make print-PROGRAM_CODE`.
print-%:
	@echo '$($*)'

.PHONY: programs install-programs
endif
