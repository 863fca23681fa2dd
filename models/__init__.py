"""Main networks, and what surrounds them: encoders, hypernetworks by their configuration, ensembles."""

from models import fully_connected, mlp, mnist_convnet, torchvision_network, wide_resnet

# Image classifiers by the `kind` of their configuration: build(image_shape, num_classes, **settings) -> module.
IMAGE_CLASSIFIERS = {
    "wide_resnet": wide_resnet.build,
    "mnist_convnet": mnist_convnet.build,
    "fully_connected": fully_connected.build,
    "torchvision": torchvision_network.build,
    "mlp": mlp.build,
}
