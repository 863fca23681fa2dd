"""The tables of results/taxonomy.md: which experiments stand in them, and what of their test they show."""

from typing import NamedTuple


class Column(NamedTuple):
    """A value of a run's test, its title and its digits after the point."""

    key: str
    title: str
    digits: int = 2


class Section(NamedTuple):
    """A table: experiments of configs/experiment/taxonomy/ with what they are, and the columns."""

    title: str
    rows: dict[str, str]
    columns: tuple[Column, ...]
    picture: str | None = None  # of results/, shown below the table where there is one


SPREAD = Column("weight_spread", "spread of the weights")
CONTINUAL = (
    Column("error", "error, task known"),
    Column("error_task_inferred", "task inferred"),
    Column("error_shuffled_condition", "shuffled condition"),
    Column("error_mean_condition", "mean condition"),
    SPREAD,
)
OF_CONTINUAL = {
    "task_conditioned": "task-conditioned, output regulariser",
    "no_regulariser": "the same without regulariser",
    "fine_tuned": "one plain network, fine-tuned",
    "separate": "a network for each task",
}
PUBLISHED = {"published_settings": "task-conditioned, published settings"}
DRAWN = (
    Column("mse", "error", 4),
    Column("mse_shuffled_condition", "shuffled condition", 3),
    Column("mse_mean_condition", "mean condition", 3),
    SPREAD,
)
ERROR = (Column("error", "error"),)
HELD_OUT = ("2x192", "3x128", "3x224", "4x96", "4x192", "5x160")  # layers and their width
STYLES = {"slanted": "slanted digits", "thick": "thick digits", "fashion": "clothes"}
OF_STYLE = {
    "key_value": "key-value networks before the frozen model",
    "low_rank": "changes of low rank to the frozen model",
    "fine_tuned": "the whole model trained further",
}
SECTIONS = [
    *(
        Section(
            f"Continual learning: {title}, {tasks} tasks of 5,000 steps, error in percent",
            {f"{name}_{key}": what for key, what in (OF_CONTINUAL | PUBLISHED).items()},
            CONTINUAL,
        )
        for name, title, tasks in (("split_mnist", "Split MNIST", 5), ("permuted_mnist", "Permuted MNIST", 10))
    ),
    Section(
        "Continual learning: three polynomials in turn, 4,000 steps each, mean squared error",
        {f"polynomials_{key}": what for key, what in OF_CONTINUAL.items()},
        (
            Column("mse", "error, task known", 5),
            *(Column(f"mse_task_{task}", f"polynomial {task}", 5) for task in (1, 2, 3)),
            Column("mse_shuffled_condition", "shuffled condition"),
            Column("mse_mean_condition", "mean condition"),
            SPREAD,
        ),
    ),
    Section(
        "Generation strategies: an MLP of 784-300-100-10 on MNIST, 5 epochs, error in percent",
        {
            "mnist_plain": "the main network by itself",
            "mnist_once": "generate once",
            "mnist_multiple": "generate multiple, 8 heads",
            "mnist_chunks_16384": "chunks of 16,384",
            "mnist_chunks_4096": "chunks of 4,096",
            "mnist_chunks_1024": "chunks of 1,024",
            "mnist_chunks_256": "chunks of 256",
            "mnist_components": "output channels",
            "mnist_plain_172": "plain, 784-172-10",
            "mnist_plain_75": "plain, 784-75-10",
            "mnist_plain_48": "plain, 784-48-10",
            "mnist_plain_32": "plain, 784-32-10",
        },
        ERROR,
        "taxonomy_parameters.png",
    ),
    Section(
        "Bodies: chunks of 1,024 of the same MLP, error in percent",
        {
            "bodies_linear": "linear",
            "bodies_mlp": "MLP",
            "bodies_cnn": "CNN",
            "bodies_rnn": "RNN",
            "bodies_attention": "attention",
        },
        ERROR,
    ),
    Section(
        "Conditioned on noise: twenty points of a cubic, negative log-likelihood (NLL) in nats per point",
        {
            "cubic_noise_conditioned": "noise-conditioned, posterior term",
            "cubic_no_posterior": "the same without posterior term",
            "cubic_ensemble": "ten plain networks",
            "cubic_dropout": "dropout of 0.1 in evaluation",
        },
        (
            Column("nll", "NLL", 3),
            Column("nll_mean_condition", "NLL, noise 0", 3),
            Column("coverage", "within two deviations, %", 1),
            Column("spread_inside", "spread inside"),
            Column("spread_outside", "spread outside"),
            SPREAD,
        ),
        "taxonomy_spread.png",
    ),
    Section(
        "Conditioned on noise: MNIST, with Fashion-MNIST as the unknown, an MLP of 784-100-10, percent",
        {
            "unknown_noise_conditioned": "noise-conditioned, posterior term",
            "unknown_no_posterior": "the same without posterior term",
            "unknown_ensemble": "ten plain networks",
            "unknown_dropout": "dropout of 0.2 in evaluation",
        },
        (
            Column("error", "error"),
            Column("error_mean_condition", "noise 0"),
            Column("calibration_error", "calibration error"),
            Column("auroc", "AUROC of the entropy", 1),
            SPREAD,
        ),
    ),
    Section(
        "Dynamic outputs: MLPs of 2 to 5 layers of 64 to 256 on MNIST, error in percent (3x128: three layers of 128)",
        {
            "architectures_described": "one described hypernetwork",
            "architectures_slices": "corners of the largest",
            **{f"architectures_alone_{size}": f"{size} by itself" for size in HELD_OUT},
        },
        (
            Column("error", "sizes trained on"),
            Column("error_held_out", "sizes held out"),
            *(Column(f"error_{size}", size) for size in HELD_OUT),
        ),
    ),
    Section(
        "Conditioned on data: MNIST digits drawn by a coordinate network, mean squared error in pixel variances",
        {
            "drawing_generated": "the image generates the network",
            "drawing_concatenated": "the code beside the coordinates",
            "drawing_50_pixels_generated": "50 pixels generate the network",
            "drawing_50_pixels_concatenated": "their code beside the coordinates",
        },
        DRAWN,
        "taxonomy_drawings.png",
    ),
    Section(
        "Few-shot and zero-shot: sinusoids of amplitudes and phases that are held out, mean squared error",
        {
            "sinusoids_attention": "10 points, attention",
            "sinusoids_mean": "10 points, mean",
            "sinusoids_concatenated": "10 points, mean, code beside x",
            "sinusoids_parameters": "amplitude and phase",
        },
        (*DRAWN[:1], Column("mse_nearest_trained", "nearest function trained", 3), *DRAWN[1:]),
    ),
    Section(
        "Stable-Diffusion-style: a diffusion model of digits learns other styles, mean squared error of the noise",
        {
            "style_base": "the model, on plain digits",
            **{
                f"style_{style}_{key}": f"{title}: {what}"
                for style, title in STYLES.items()
                for key, what in OF_STYLE.items()
            },
        },
        (
            Column("noise_error", "error", 4),
            Column("noise_error_frozen", "frozen model", 4),
            Column("misread_samples", "samples misread, %", 1),
            Column("misread_samples_frozen", "frozen model's, %", 1),
        ),
        "taxonomy_samples.png",
    ),
]
EXPERIMENTS = [name for section in SECTIONS for name in section.rows]
