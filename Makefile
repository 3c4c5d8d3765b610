# msa-batch. `make help` lists the targets.
#
# Objects go to build/VARIANT (build/cpu, build/asan), so no target needs a
# clean first. A folder's *.c are found by themselves: X/*_main.c is a program,
# everything else goes into the folder's library; tests/test_*.c and
# tests/bench_*.c are programs of their own, tests/support_*.c is shared by them.

VARIANT ?= cpu
B := build/$(VARIANT)
CC ?= gcc

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
        -Wundef -Wvla -Wformat=2 -Wno-format-truncation -Wwrite-strings -Werror
OPT := -O2 -g
ifeq ($(VARIANT),asan)
OPT := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
endif
# ARCH_FLAGS_name.o: instruction sets of files that are called only after a
# run-time check of the processor
ARCH_avx512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c
ARCH_avx512bf16 := $(ARCH_avx512) -mavx512bf16
ARCH_avx2 := -mavx2 -mfma -mf16c
arch = $(strip $(foreach a,avx512bf16 avx512 avx2,$(if $(filter %_$(a).c,$(1)),$(ARCH_$(a)))))

FOLDERS := base kernels ingest ingest/extract engine jobs models
# parsers of hostile files: linked into msa-extract and nothing else
EXTRACT_PKGS := poppler-glib libarchive
EXTRACT_CFLAGS = $(if $(filter ingest/extract/%,$(1)),$(shell pkg-config --cflags $(EXTRACT_PKGS)))
EXTRACT_LIBS = $(shell pkg-config --libs $(EXTRACT_PKGS))
LIBS := -ljansson -lpcre2-8 -lxxhash -lcrypto -lm

compile = $(CC) -std=gnu11 -pthread $(WARN) $(OPT) -I. -I$(B) -MMD -MP \
          $(call arch,$(1)) $(call EXTRACT_CFLAGS,$(1)) $(CFLAGS) -c $(1) -o $(2)
link = $(CC) -pthread $(OPT) $(LDFLAGS) -o $@ $^ $(1) $(LIBS)

members = $(patsubst %.c,$(B)/%.o,$(filter-out %_main.c,$(wildcard $(1)/*.c)))
lib = $(B)/$(1)/lib.a
# link order runs against the data flow
ENGINE_LIBS := $(foreach d,engine ingest kernels base,$(call lib,$(d)))
JOBS_LIBS := $(call lib,jobs) $(ENGINE_LIBS)
EXTRACT_OBJS := $(call lib,ingest/extract) $(call lib,ingest) $(call lib,base)
MODELS_OBJS := $(call lib,models) $(ENGINE_LIBS)

PROGRAMS := $(addprefix $(B)/,msa-batch msa-golden msa-extract msa-gguf)
TESTS := $(patsubst %.c,$(B)/%,$(wildcard tests/test_*.c))
BENCHES := $(patsubst %.c,$(B)/%,$(wildcard tests/bench_*.c))

.DEFAULT_GOAL := all
.PHONY: all clean help
all: $(PROGRAMS)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(call compile,$<,$@)

define library
$(call lib,$(1)): $(call members,$(1))
	@mkdir -p $$(@D)
	@rm -f $$@
	ar rcs $$@ $$^
endef
$(foreach d,$(FOLDERS),$(eval $(call library,$(d))))
# only what tests and benches share
$(B)/tests/lib.a: $(patsubst %.c,$(B)/%.o,$(wildcard tests/support_*.c))
	@rm -f $@
	ar rcs $@ $^

$(B)/msa-batch: $(B)/jobs/batch_main.o $(JOBS_LIBS)
	$(call link,-ldnnl)
$(B)/msa-golden: $(B)/engine/golden_main.o $(ENGINE_LIBS)
	$(call link,-ldnnl)
$(B)/msa-extract: $(B)/ingest/extract/extract_main.o $(EXTRACT_OBJS)
	$(call link,$(EXTRACT_LIBS))
$(B)/msa-gguf: $(B)/models/gguf_main.o $(MODELS_OBJS)
	$(call link,-ldnnl)

$(B)/tests/%: $(B)/tests/%.o $(B)/tests/lib.a $(call lib,jobs) $(MODELS_OBJS) $(EXTRACT_OBJS)
	$(CC) -pthread $(OPT) $(LDFLAGS) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group \
	  -lcmocka -ldnnl $(EXTRACT_LIBS) $(LIBS)

clean:
	rm -rf build

help:
	@sed -n 's/^## //p' Makefile

-include $(shell find $(B) -name '*.d' 2>/dev/null)
