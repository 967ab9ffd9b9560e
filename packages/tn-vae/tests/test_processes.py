"""Two processes that have made something of their own shares of the data go on with the same."""

import torch
from torch import nn
from torch.multiprocessing import spawn

from tn_priors import TRIP
from tn_vae.autoencoder import same_in_all_processes


def process(rank, file):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    module = nn.BatchNorm1d(3)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(5 + rank)
    same_in_all_processes(module)
    assert all((tensor == 5).all() for tensor in (*module.parameters(), *module.buffers()))
    orders = [[3, 0, 1, 2], [1, 2, 0, 3]]
    priors = [TRIP(3, 4, 3, [2]) for _ in orders]
    for prior, order in zip(priors, orders, strict=True):
        prior.set_order(torch.tensor(order))
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    same_in_all_processes(priors[rank])
    # held until the group is gone: torch 2.6 waits for ever where gloo's thread holds a tensor's last reference then
    own = priors[rank]().log_prob(z).detach()
    found = [torch.empty(5), torch.empty(5)]
    torch.distributed.all_gather(found, own)
    assert torch.equal(*found)
    torch.distributed.destroy_process_group()


def test_two_processes_share_the_first_ones_numbers(tmp_path):
    spawn(process, (str(tmp_path / "meet"),), nprocs=2)


def test_one_process_is_left_alone():
    module = nn.Linear(2, 2)
    before = module.weight.clone()
    same_in_all_processes(module)
    assert torch.equal(module.weight, before)
