"""The facts of each data set that `load_dataset` knows.

The digests of MNIST's and Fashion-MNIST's parts were computed from archives that have the SHA-256
which TFDS registers for them; the digest of CIFAR-10's archive is the one registered there.
"""

from __future__ import annotations

from jaxsnn.datasets.archives import read_cifar_archive, read_idx_archives
from jaxsnn.datasets.official import Official
from jaxsnn.datasets.wheel import WHEEL, read_wheel

_IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)

OFFICIAL = {
    official.name: official
    for official in (
        Official(
            name="mnist",
            builder="mnist.MNIST",
            image_shape=(28, 28, 1),
            counts={"train": 60_000, "test": 10_000},
            url="https://storage.googleapis.com/cvdf-datasets/mnist/",
            files=_IDX_FILES,
            read_archives=read_idx_archives,
            sha256={
                "train-images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
                "train-labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
                "test-images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
                "test-labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
            },
            other_ways={f"the package {WHEEL}": read_wheel},
        ),
        Official(
            name="fashion_mnist",
            builder="mnist.FashionMNIST",
            image_shape=(28, 28, 1),
            counts={"train": 60_000, "test": 10_000},
            url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            files=_IDX_FILES,
            read_archives=read_idx_archives,
            sha256={
                "train-images": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
                "train-labels": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
                "test-images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
                "test-labels": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
            },
        ),
        Official(
            name="cifar10",
            builder="cifar.Cifar10",
            image_shape=(32, 32, 3),
            counts={"train": 50_000, "test": 10_000},
            class_names=(
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),
            url="https://www.cs.toronto.edu/~kriz/",
            files=("cifar-10-binary.tar.gz",),
            read_archives=read_cifar_archive,
            sha256={
                "cifar-10-binary.tar.gz": (
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
                )
            },
        ),
    )
}
