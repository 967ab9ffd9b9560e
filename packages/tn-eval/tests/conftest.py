"""Settings of the tests, and two models of a stranger's that need no package of ours to be trained."""

import pytest
import torch
from torch import nn

from tn_core.plugins import PluginHost

torch.set_num_threads(1)


class Memory(nn.Module):
    """Remembers the training images: samples are images of the class asked for, labels are those of the nearest one."""

    def __init__(self, shape=(1, 8, 8), labels=(10,), confidence: float = 0.9) -> None:
        super().__init__()
        from tn_eval.datasets import Digits

        train = Digits().split("train")
        self.register_buffer("x", train.x.float() / 255)
        self.register_buffer("y", train.labels)
        self.confidence = confidence

    def sample(self, count, y=None):
        """Images of the class in ``y``: values (count, 1) or one bool mask a label."""
        found = []
        for i in range(count):
            allowed = torch.ones(len(self.y), dtype=torch.bool)
            if isinstance(y, torch.Tensor):
                allowed = self.y[:, 0] == y[i, 0]
            elif y is not None and y[0] is not None:
                allowed = y[0][self.y[:, 0]]
            where = allowed.nonzero().flatten()
            found.append(self.x[where[torch.randint(len(where), ())]])
        return torch.stack(found)

    def impute(self, x, y=None):
        """Puts ``confidence`` on the label of the nearest remembered image."""
        nearest = torch.cdist(x.flatten(1), self.x.flatten(1)).argmin(1)
        p = torch.full((len(x), 10), (1 - self.confidence) / 9)
        return [p.scatter(1, self.y[nearest], self.confidence)]

    def elbo(self, x, y=None):
        """A made-up bound that tells the items apart."""
        return -x.flatten(1).sum(1)

    def iwae(self, x, y=None, samples=100):
        """The same plus log samples."""
        return self.elbo(x) + torch.tensor(float(samples)).log()


class Blank(nn.Module):
    """Offers nothing."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Where the tests share a classifier."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def host(monkeypatch, cache):
    """A plugin host with this package and the two models, in place of the installed one."""
    from tn_core import hookimpl

    class Strangers:
        @hookimpl
        def models(self):
            """The two models."""
            return {"Memory": Memory, "Blank": Blank}

    host = PluginHost()
    host.register(Strangers())
    for module in ("commands", "neighbours"):
        monkeypatch.setattr(f"tn_eval.{module}.default_host", lambda: host)
    monkeypatch.setenv("TN_CACHE", str(cache))
    return host


@pytest.fixture
def run(host, tmp_path):
    """The folder of a model."""
    from tn_core.components import build
    from tn_core.storage import describe, save_model

    def make(name="Memory", data=None, folder="run"):
        spec = {"name": name}
        model = build(spec, "models", host, shape=(1, 8, 8), features=2, labels=[10])
        labels = {"digit": [str(i) for i in range(10)]}
        config = describe(spec, data or {"name": "digits", "missing": 0.5}, (1, 8, 8), labels, features=2)
        save_model(model, config, tmp_path / folder)
        return tmp_path / folder

    return make
