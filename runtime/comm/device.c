// device.c: sums over a link's ranks that stay on the devices (tlk_ops.ranks_..., NCCL on GPUs).
//
// The first sum over a link joins its ranks' devices: every rank's hello goes to all over the link. A rank whose backend cannot, or
// has no such ops, says nothing in it, and then all sum through the host; rank 0 says once on stderr why. Either way sums add in the
// order of ranks, so they have the same bits.
#include "../base/base.h"
#include "comm.h"
#include <stdio.h>

enum { MOST = 4 };
static struct {
  tl_comm_link *link;
  tlk_ranks *ranks;  // NULL: through the host
} joined[MOST];
static int n_joined;

static tlk_ranks *join(tl_comm_link *l) {
  const tlk_ops *ops = tl_ops();
  char mine[TLK_HELLO] = {0}, why[256] = "", *all = malloc((size_t)l->size * TLK_HELLO);
  if (ops->ranks_hello) ops->ranks_hello(mine, l->rank);
  bool told = all && l->gather(l, mine, all, TLK_HELLO) == 0;
  tlk_ranks *ranks = told && ops->ranks_join ? ops->ranks_join(all, l->rank, l->size, why, sizeof why) : NULL;
  if (*why && l->rank == 0) fprintf(stderr, "tlrun: ranks exchange through the host: %s\n", why);
  free(all);
  return ranks;
}

bool tl_comm_device_sum(tl_comm_link *l, float *x, int64_t n) {
  int i = 0;
  while (i < n_joined && joined[i].link != l) i++;
  if (i == MOST) return false;
  if (i == n_joined) {
    joined[i].link = l, joined[i].ranks = join(l);
    n_joined++;
  }
  if (!joined[i].ranks) return false;
  tl_ops()->ranks_sum(joined[i].ranks, x, (size_t)n);
  return true;
}

void tl_comm_device_leave(void) {
  while (n_joined > 0)
    if (joined[--n_joined].ranks) tl_ops()->ranks_leave(joined[n_joined].ranks);
}
