/* Clusters as the kernels use them. */
#ifndef MSA_TESTS_EMU_COOPERATIVE_GROUPS_H
#define MSA_TESTS_EMU_COOPERATIVE_GROUPS_H

#include "cuda_runtime.h"

namespace cooperative_groups
{
struct cluster_group {
    void sync() const
    {
        msa_emu_cluster_arrive();
        msa_emu_cluster_wait();
    }
    unsigned block_rank() const { return msa_emu_self->block->rank; }
    unsigned num_blocks() const { return msa_emu_self->block->cluster->n_blocks; }
    template <class T> T *map_shared_rank(T *p, unsigned rank) const { return (T *)msa_emu_shared_of(p, rank); }
};
static inline cluster_group this_cluster() { return {}; }
}

#endif
