"""The models of images and labels: CVAE, TELBO, JMVAE, and the labels they take and give."""

import math
from itertools import product

import pytest
import torch
from test_vae import SHAPE, striped, trainer
from torch.distributions import Independent, MultivariateNormal, Normal

from tn_core.protocols import Interval
from tn_core.training import Items, batches
from tn_priors import TRIP, GaussianMixture, StandardNormal
from tn_vae import CVAE, JMVAE, MLP, TELBO
from tn_vae.labels import LabelDecoder, Labels


def build(name, prior=None, features=2, labels=(2,), **more):
    torch.manual_seed(0)
    prior = prior or StandardNormal(features)
    if name == "CVAE":
        network = MLP(SHAPE, **CVAE.network_size(features, labels), hidden=(16,))
        classifier = MLP(SHAPE, 1, **CVAE.classifier_size(labels), hidden=(16,))
        return CVAE(network, classifier, prior, features, labels, **more)
    kind = {"TELBO": TELBO, "JMVAE": JMVAE}[name]
    return kind(MLP(SHAPE, **kind.network_size(features), hidden=(16,)), prior, features, labels, **more)


NAMES = ["CVAE", "TELBO", "JMVAE"]


def test_labels_as_numbers():
    labels = Labels([2, 3])
    y = torch.tensor([[1, 0], [-1, 2], [0, -1], [-1, -1]])
    expected = [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert labels(y).tolist() == expected
    labels.count(y)
    assert (labels.counts - 1).tolist() == [1, 1, 1, 0, 1]


def test_continuous_labels_are_refused():
    with pytest.raises(ValueError, match="label 1 is continuous; this model takes categorical labels only"):
        Labels([3, Interval(0, 1)])
    with pytest.raises(ValueError, match="label 0 is continuous; this model takes categorical labels only"):
        CVAE.network_size(features=4, labels=[Interval(0, 1)])


def test_what_is_known_as_values():
    torch.manual_seed(0)
    labels = Labels([2, 3])
    labels.counts.copy_(torch.tensor([1.0, 3.0, 5.0, 1.0, 4.0]))
    assert labels.values(None, 4, complete=False).tolist() == [[-1, -1]] * 4
    assert labels.values(torch.tensor([1, -1]), 3, complete=False).tolist() == [[1, -1]] * 3
    assert labels.values([torch.tensor(0), torch.tensor([2, -1])], 2, complete=False).tolist() == [[0, 2], [0, -1]]
    count = 20_000
    drawn = labels.values([None, torch.tensor([True, False, True])], count, complete=True)
    found = [(drawn[:, 0] == 1).float().mean(), (drawn[:, 1] == 2).float().mean()]
    for share, expected in zip(found, (3 / 4, 4 / 9), strict=True):  # five standard errors
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / count)
    assert (drawn[:, 1] != 1).all()
    assert (labels.values([None, torch.tensor([False, True, False])], 5, complete=False) == torch.tensor([-1, 1])).all()


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (torch.tensor([0]), r"y must have shape \(2,\) or \(3, 2\), got \(1,\)"),
        ([None], "one entry for each of 2 labels, got 1"),
        (torch.tensor([2, 0]), "label 0 has the values 0 to 1"),
        (torch.tensor([0, -2]), "label 1 has the values 0 to 2"),
        ([torch.tensor([False, False]), None], "label 0: a set must allow at least one of its 2 values"),
        ([torch.tensor([True]), None], "label 0: a set must allow"),
    ],
)
def test_what_cannot_be_known(known, message):
    with pytest.raises(ValueError, match=message):
        Labels([2, 3]).values(known, 3, complete=False)


def test_label_decoder_is_normalised_and_leaves_out_what_is_unknown():
    torch.manual_seed(0)
    decoder = LabelDecoder(3, [2, 3]).double()
    z = torch.randn(4, 5, 3, dtype=torch.float64)
    every = [decoder.log_prob(z, torch.tensor(y).expand(5, 2)) for y in product(range(2), range(3))]
    assert torch.allclose(torch.stack(every).logsumexp(0).exp(), torch.ones(4, 5, dtype=torch.float64))
    one = torch.stack(every[:3]).logsumexp(0)  # the second label summed out
    assert torch.allclose(decoder.log_prob(z, torch.tensor([0, -1]).expand(5, 2)), one)
    assert torch.allclose(one.exp(), decoder.probabilities(z)[0][..., 0])
    assert (decoder.log_prob(z, torch.full((5, 2), -1)) == 0).all()


def test_the_product_of_experts_is_that_of_the_densities():
    model = build("TELBO", features=1, labels=(2, 3)).double()
    with torch.no_grad():
        model.expert_means.normal_()
        model.expert_log_precisions.normal_()
    z = torch.linspace(-10, 10, 20_001, dtype=torch.float64)
    for y in ([-1, -1], [1, -1], [0, 2]):
        log_p = Normal(0, 1).log_prob(z)
        for value, start in zip(y, (0, 2), strict=True):
            if value >= 0:
                mean, log_precision = model.expert_means[start + value], model.expert_log_precisions[start + value]
                log_p = log_p + Normal(mean, (-0.5 * log_precision).exp()).log_prob(z)
        log_p = log_p - log_p.logsumexp(0) - math.log(float(z[1] - z[0]))
        found = model.given_labels(torch.tensor([y])).log_prob(z.reshape(-1, 1, 1)).squeeze(1)
        assert torch.allclose(found, log_p, atol=1e-6)


@pytest.mark.parametrize("name", ["TELBO", "JMVAE"])
@pytest.mark.parametrize("label", [None, -1, 1])
@pytest.mark.parametrize(
    "prior", [StandardNormal, lambda features: TRIP(features, 4, 3, mean_range=0.7, deviation=0.8)]
)
def test_joint_bounds_against_the_evidence(name, label, prior):
    """log p(x, y) of one latent by quadrature; more samples tighten the bound to it."""
    model = build(name, prior(1), 1).double().eval()
    x = torch.rand(2, *SHAPE, dtype=torch.float64)
    y = None if label is None else torch.full((2, 1), label)
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64).unsqueeze(-1)
    with torch.no_grad():
        at = z.unsqueeze(1).expand(-1, 2, -1)
        joint = model.log_likelihood(x, at) + model.prior().log_prob(z).unsqueeze(1)
        if label == 1:
            joint = joint + model.label_decoder.log_prob(at, y)
        exact = joint.logsumexp(0) + math.log(float(z[1] - z[0]))
        tight = model.iwae(x, y, samples=50_000)
        many = (x.repeat(4000, 1, 1, 1), None if y is None else y.repeat(4000, 1))
        elbo = model.elbo(*many).reshape(-1, 2)
        single = model.iwae(*many, samples=1).reshape(-1, 2)
    assert torch.allclose(tight, exact, atol=0.05)
    assert (elbo.mean(0) < exact).all()
    error = ((elbo.var(0) + single.var(0)) / 4000).sqrt()
    assert ((elbo.mean(0) - single.mean(0)).abs() < 5 * error).all()


def test_the_cvae_with_a_normal_prior_has_normals_given_labels():
    model = build("CVAE", labels=(2, 3)).double()
    z = torch.randn(6, 4, 2, dtype=torch.float64)
    y = model.labels(torch.tensor([[0, 1], [1, 2], [1, 0], [0, 0]])).double()
    mean, log_deviation = model.from_labels(y).chunk(2, -1)
    deviation = torch.exp(7 * torch.tanh(log_deviation / 7))
    expected = MultivariateNormal(mean, scale_tril=torch.diag_embed(deviation)).log_prob(z)
    assert torch.allclose(model.log_prior(z, y), expected)


@pytest.mark.parametrize("prior", [StandardNormal, lambda features: GaussianMixture(features, 3)])
def test_cvae_bound_against_the_evidence(prior):
    """log p(x | y) by quadrature; unknown labels are the classifier's."""
    model = build("CVAE", prior(1), 1).double().eval()
    x = torch.rand(2, *SHAPE, dtype=torch.float64)
    y = torch.tensor([[1], [-1]])
    guessed = model.impute(x)[0].argmax(-1)
    numbers = model.labels(torch.stack([torch.tensor(1), guessed[1]]).unsqueeze(1))
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64).reshape(-1, 1, 1).expand(-1, 2, 1)
    with torch.no_grad():
        code = torch.cat([z, numbers.double().expand(len(z), -1, -1)], -1)
        joint = model.log_likelihood(x, code) + model.log_prior(z, numbers.double())
        exact = joint.logsumexp(0) + math.log(float(z[1, 0, 0] - z[0, 0, 0]))
        tight = model.iwae(x, y, samples=50_000)
        elbo = model.elbo(x.repeat(4000, 1, 1, 1), y.repeat(4000, 1)).reshape(-1, 2).mean(0)
    assert torch.allclose(tight, exact, atol=0.05)
    assert (elbo < exact).all()


def test_jmvae_draws_the_encoders_together():
    """The objective is equation 3 of its paper, term by term."""
    model = build("JMVAE", alpha=0.3, label_weight=0.0, warmup_steps=0)
    x, y = striped(64)
    y[::2] = -1
    torch.manual_seed(3)
    loss, found = model.objective(x, y)
    torch.manual_seed(3)
    of_image, of_both = model.posteriors(x, y)
    z = of_both.rsample()
    bound = model.log_likelihood(x, z) + model.label_decoder.log_prob(z, y)
    p = Independent(Normal(torch.zeros(2), torch.ones(2)), 1).expand((64,))
    kl = torch.distributions.kl_divergence
    expected = bound - kl(of_both, p) - 0.3 * (kl(of_both, of_image) + kl(of_both, model.given_labels(y)))
    assert torch.allclose(loss, -expected.mean())
    assert torch.allclose(found["elbo_joint"], (bound - kl(of_both, p)).mean())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prior", [StandardNormal, lambda features: TRIP(features, 3, 2)], ids=["normal", "TRIP"])
def test_missing_labels_are_learned_imputed_and_asked_for(name, prior):
    model = build(name, prior(2), warmup_steps=0, learning_rate=1e-2).train()
    x, truth = striped(2048)
    y = truth.masked_fill(torch.rand(truth.shape) < 0.7, -1)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    trainer(8).fit(model, batches(Items(x, y), 64, 0))
    model.eval()
    assert [key for key, p in model.named_parameters() if torch.equal(p, before[key])] == []
    imputed = model.impute(x)[0]
    assert torch.allclose(imputed.sum(-1), torch.ones(len(x)), atol=1e-4)
    assert (imputed.argmax(-1) == truth[:, 0]).float().mean() > 0.95
    asked = torch.arange(2).repeat_interleave(200).unsqueeze(1)
    for known in (asked, [torch.nn.functional.one_hot(asked[:, 0]).bool()]):
        drawn = model.sample(400, known)
        seen = (drawn[:, 0, 1].mean(-1) > drawn[:, 0, 0].mean(-1)).long()
        assert (seen == asked[:, 0]).float().mean() > 0.85
    free = model.sample(400)
    upper = (free[:, 0, 1].mean(-1) > free[:, 0, 0].mean(-1)).float().mean()
    assert 0.2 < upper < 0.8
    assert model.reconstruct(x[:3]).shape == (3, *SHAPE)


@pytest.mark.parametrize("name", NAMES)
def test_batches_without_labels(name):
    x, _ = striped(64)
    trainer().fit(build(name).train(), torch.utils.data.DataLoader(x, batch_size=16))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": ()}, "needs at least one"),
        ({"labels": (2, 1)}, "at least 2 values each"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
    ],
)
def test_errors(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(name, **arguments)


def test_use_errors():
    with pytest.raises(ValueError, match=r"4 \* 2 numbers, it gives 4"):
        TELBO(MLP(SHAPE, 2), StandardNormal(2), 2, [2]).elbo(*striped(2))
    with pytest.raises(ValueError, match=r"y must have shape \(batch, 1\)"):
        build("JMVAE").elbo(striped(2)[0], torch.zeros(2, 3, dtype=torch.long))


@pytest.mark.parametrize("name", ["TELBO", "JMVAE"])
def test_items_without_a_label_are_seen_by_the_encoder_of_images(name):
    """The encoder of both may never have seen one."""
    model = build(name, labels=(2, 3)).eval()
    x = striped(4)[0]
    y = torch.tensor([[-1, -1], [0, -1], [1, 2], [-1, -1]])
    alone, both = model.impute(x), model.label_decoder.probabilities(model.posteriors(x, y)[1].mean)
    for found, image, joint in zip(model.impute(x, y), alone, both, strict=True):
        torch.testing.assert_close(found[[0, 3]], image[[0, 3]])
        torch.testing.assert_close(found[[1, 2]], joint[[1, 2]])
        assert not torch.allclose(image, joint)
