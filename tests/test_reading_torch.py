"""Modules of PyTorch are read as they are, channels first, where torchax is installed."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsnn

torch = pytest.importorskip("torch")
pytest.importorskip("torchax", exc_type=ImportError)

from torch import nn  # noqa: E402

pytestmark = pytest.mark.promotes  # torchax relies on it


def settled(module):
    """The module in evaluation mode, its batch norms with statistics as after a training."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.bias.data.normal_(0, 0.1, generator=generator)
    return module.eval()


def read(module, shape):
    """The network that is read of a module, with its outputs compared with the module's."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = module(images).numpy()
    network = jaxsnn.read_network(module, images.numpy())
    found = np.asarray(network(jnp.asarray(images.numpy())))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return network


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        nn.ReLU6(),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d((2, 1)),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Linear(6, 3),
    )


def test_a_sequential_cnn():
    network = read(settled(small()), (3, 2, 12, 12))
    assert network.shapes == [(4, 12, 12), (4, 6, 6), (4, 4, 4), (6,), (3,)]


def test_is_read_in_evaluation_mode_and_stays_as_it_is():
    module = small().train()
    images = np.zeros((1, 2, 12, 12), np.float32)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = jaxsnn.read_network(module, images)(images)
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    with torch.no_grad():
        expected = module.eval()(torch.zeros(1, 2, 12, 12)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_resnet_of_torchvision():
    models = pytest.importorskip("torchvision.models")
    network = read(settled(models.resnet18(num_classes=10)), (2, 3, 32, 32))
    assert len(network.layers) == 19


def test_a_vgg_of_torchvision():
    models = pytest.importorskip("torchvision.models")
    module = models.vgg11_bn(init_weights=False)
    module.classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 10)
    )
    assert len(read(settled(module), (2, 3, 32, 32)).layers) == 15


def test_a_converted_module_comes_close_to_its_outputs():
    module = settled(small())
    images = np.random.default_rng(0).random((20, 2, 12, 12), np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    snn = jaxsnn.convert(module, images, percentile=100.0)
    scores = jaxsnn.simulate(snn, images, key=0, duration=0.256, engine="scan").scores[-1] / 256
    assert np.abs(scores - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (nn.Softmax(1), "in Softmax at .*let the model return the logits"),
        (nn.GELU(), "in GELU at .*train the model with ReLUs"),
        (nn.GroupNorm(1, 4), "GroupNorm at .*statistics of each image"),
        (nn.AdaptiveMaxPool2d(1), "torchax.* does not know this operation.*adaptive_max_pool2d"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_read_is_named(last, message):
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), last)
    with pytest.raises(jaxsnn.ReadingError, match=message):
        jaxsnn.read_network(module, np.zeros((1, 1, 6, 6), np.float32))


def test_the_line_of_the_user_is_named():
    class Gated(nn.Module):
        def forward(self, x):
            return torch.nn.functional.gelu(x)

    with pytest.raises(jaxsnn.ReadingError, match=r"test_reading_torch\.py.*Gated\.forward"):
        jaxsnn.read_network(Gated(), np.zeros((1, 4), np.float32))
