"""``harken see``: train an image classifier on images of your own, and let it tell what others show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harken.cli.training import check_device, need, run_training, talker

if TYPE_CHECKING:
    from harken.data.images import ImageSet
    from harken.tasks.classify_images import Prediction
    from harken.train.classification import ClassScore

_DATA, _MODEL, _LENGTH, _RUN = "Images", "Model", "How long, how fast", "The run"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    see = typer.Typer(no_args_is_help=True, help="Look at images: train a classifier, and let it classify.")
    see.callback()(_group)
    classify = typer.Typer(no_args_is_help=True, help="Tell what an image shows.")
    classify.callback()(_classify)
    classify.command("train", no_args_is_help=True)(train)
    classify.command("predict", no_args_is_help=True)(predict)
    see.add_typer(classify, name="classify")
    app.add_typer(see, name="see")


def _group() -> None:
    """Look at images: train a classifier with any attention, and let it classify."""


def _classify() -> None:
    """Tell what an image shows."""


def train(
    data: Annotated[
        Path | None,
        typer.Argument(metavar="[DATA]", help="Folder with one sub-folder of PNG, JPEG, BMP or WebP files a class."),
    ] = None,
    digits: Annotated[
        bool,
        typer.Option("--digits", help="Train on scikit-learn's handwritten digits instead.", rich_help_panel=_DATA),
    ] = False,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=4, max=1024, help="Pixels a side that the model sees.", show_default="32", rich_help_panel=_DATA
        ),
    ] = None,
    grey: Annotated[bool, typer.Option("--grey", help="Leave colours out.", rich_help_panel=_DATA)] = False,
    held_out: Annotated[float, typer.Option(help="Share of each class that judges.", rich_help_panel=_DATA)] = 0.2,
    shift: Annotated[
        float, typer.Option(help="Move training images by up to this share of a side.", rich_help_panel=_DATA)
    ] = 0.1,
    crop: Annotated[
        float, typer.Option(help="Cut them out at random, down to this share of a side.", rich_help_panel=_DATA)
    ] = 1.0,
    turn: Annotated[float, typer.Option(help="Turn them by up to so many degrees.", rich_help_panel=_DATA)] = 0.0,
    flip: Annotated[
        bool, typer.Option("--flip", help="Mirror half of them, left to right.", rich_help_panel=_DATA)
    ] = False,
    model: Annotated[
        str, typer.Option(help="vit, litv2, mavit, sparsifiner or minimal.", rich_help_panel=_MODEL)
    ] = "vit",
    preset: Annotated[
        str | None,
        typer.Option(
            help="Size: small, or as in its paper: deit-tiny, deit-small, deit-base (vit, sparsifiner); s, m, b "
            "(litv2); t, s, b, l (mavit). For minimal: symmetric, full, no-mlp, minimum.",
            show_default="small (symmetric)",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(
            help="A bidirectional mechanism, with options behind a colon; several, separated by spaces, take turns "
            "through the layers of vit, and are those of the last stages of litv2 and mavit.",
            show_default="the preset's",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    patch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Pixels a side of a token.", show_default="to fit", rich_help_panel=_MODEL),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps in all.", rich_help_panel=_LENGTH)] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step and process.", rich_help_panel=_LENGTH)] = 32,
    lr: Annotated[float, typer.Option(help="Highest learning rate.", rich_help_panel=_LENGTH)] = 2e-3,
    weight_decay: Annotated[float, typer.Option(min=0, help="Of AdamW.", rich_help_panel=_LENGTH)] = 0.05,
    label_smoothing: Annotated[
        float, typer.Option(help="Share of the target that goes to all classes.", rich_help_panel=_LENGTH)
    ] = 0.05,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.", rich_help_panel=_RUN)] = Path(
        "runs/see"
    ),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --out, exactly where it stopped.", rich_help_panel=_RUN),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order, what is held out.", rich_help_panel=_RUN)] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that move images.", rich_help_panel=_RUN)] = 0,
    device: Annotated[
        str, typer.Option(help="auto takes a GPU where there is one; cpu does not.", rich_help_panel=_RUN)
    ] = "auto",
    validate_every: Annotated[
        int, typer.Option(min=1, help="Steps from one validation to the next.", rich_help_panel=_RUN)
    ] = 100,
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps from one save to the next: what a kill costs.", rich_help_panel=_RUN)
    ] = 100,
) -> None:
    """Train an image classifier on a folder of images, one sub-folder a class.

    A fifth of each class is held out and judges by accuracy. The best weights land in OUT/best, the latest in OUT/last;
    at the end every class is judged by itself (OUT/classes.tsv). With --digits no images are needed: the digits come
    with scikit-learn, and other writers' judge.

    Examples: harken see classify train flowers --flip --crop 0.7

    harken see classify train --digits --model mavit --image-size 16
    """
    import torch

    from harken.errors import InputError
    from harken.models.see.classifiers import MODELS, classifier_config
    from harken.train.classification import Augmentation, ClassificationRecipe
    from harken.train.loop import LoopConfig

    need("accelerate")
    check_device(device)
    if digits == (data is not None):
        raise InputError("give a folder of images, or --digits, and not both")
    if not resume and (out / "state.pt").exists():
        raise InputError(f"'{out}' already holds a run: pass --resume to go on with it, or choose another --out")
    augmentation = Augmentation(shift=shift, crop=crop, flip=flip, turn=turn)
    loop = LoopConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        betas=(0.9, 0.95),
        weight_decay=weight_decay,
        warmup=max(1, min(100, steps // 10)),
        clip_norm=1.0,
        ema=0.99,
        validate_every=validate_every,
        save_every=save_every,
        seed=seed,
        workers=workers,
    )
    talk = talker()
    size = image_size or 32
    channels: Literal[1, 3] = 1 if grey or digits else 3
    images = _images(data, size, channels, held_out, seed)
    for problem in images.unreadable:
        talk(f"left out: {problem}")
    config = classifier_config(
        model,
        preset,
        classes=len(images.labels.names),
        image_size=size,
        channels=channels,
        attention=tuple((attention or "").split()),
        patch_size=patch_size,
    )
    torch.manual_seed(seed)
    recipe = ClassificationRecipe(
        MODELS[model](config), images, augmentation=augmentation, label_smoothing=label_smoothing
    )
    count = sum(parameter.numel() for parameter in recipe.model.parameters())
    talk(
        f"{len(images.train.labels):,} images of {len(images.labels.names)} classes to train on, "
        f"{len(images.held_out.labels):,} to judge on; {count:,} parameters"
    )
    _prepare(out, images)
    run_training(
        recipe,
        loop,
        out,
        resume=resume,
        device=device,
        describe=_metrics,
        use="harken see classify predict --weights {} image.png",
    )
    _report(out, images)


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="PNG, JPEG, BMP or WebP files.")],
    weights: Annotated[
        str | None,
        typer.Option(
            help="Folder of a run, or of its best model.", show_default="handwritten digits: what ships with harken"
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="So many of the likeliest classes.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the images as the model sees them, with the parts that speak for the class."),
    ] = None,
) -> None:
    """Tell what images show.

    Without --weights they are taken for handwritten digits, one each: what is darker or brighter than its ground is
    cut out, put in the middle of a square, inverted where the ground is bright, and made 8 x 8 pixels small. A photo of
    a digit on lined paper, or of several, is more than that can do. Images for other models are cut to the largest
    square in the middle.

    With --plot, red is where covering the image costs the class most of its probability, blue where it gains.

    Examples: harken see classify predict seven.png

    harken see classify predict --weights runs/flowers/best *.jpg --plot flowers.png
    """
    from harken.tasks.classify_images import Classifier, draw_predictions

    if plot is not None:
        from harken.figures import require_matplotlib

        require_matplotlib()
    classifier = Classifier.load(weights)
    predictions, problems = classifier.predict(images, top)
    if as_json:
        found = [prediction.as_json() for prediction in predictions]
        typer.echo(json.dumps({"predictions": found, "errors": problems}, indent=2, ensure_ascii=False))
    else:
        _show(predictions)
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    if plot is not None and predictions:
        draw_predictions(classifier, predictions, plot)
    if problems:
        raise typer.Exit(1 if predictions else 2)


def _images(data: Path | None, size: int, channels: Literal[1, 3], held_out: float, seed: int) -> ImageSet:
    from rich.console import Console
    from rich.progress import Progress

    from harken.data.images import digits_set, read_folder

    if data is None:
        return digits_set(size)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading images")
        return read_folder(
            data,
            image_size=size,
            channels=channels,
            held_out=held_out,
            seed=seed,
            told=lambda done, count: bar.update(task, completed=done, total=count),
        )


def _prepare(out: Path, images: ImageSet) -> None:
    """The names of the classes lie beside the weights from the start, so that those of a killed run can be used."""
    from harken.errors import OutputError

    if (out / "state.pt").exists():  # a run that goes on keeps its own
        return
    try:
        for folder in (out, out / "best", out / "last"):
            folder.mkdir(parents=True, exist_ok=True)
            images.labels.write(folder)
    except OSError as error:
        raise OutputError(f"cannot use the folder '{out}': {error.strerror or error}") from None


def _report(out: Path, images: ImageSet) -> None:
    """Each class by itself, with the best weights; also as ``classes.tsv``."""
    from rich.console import Console
    from rich.table import Table

    from harken.tasks.classify_images import Classifier
    from harken.train.classification import class_scores
    from harken.whole_files import write_text

    scores = class_scores(Classifier.load(out / "best").model, images.held_out, images.labels.names)
    lines = ["class\timages\trecall\tprecision", *map(_line, scores)]
    write_text(out / "classes.tsv", "\n".join(lines) + "\n")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("class", "images", "found", "right of those named so"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for score in scores:
        table.add_row(score.name, str(score.images), f"{score.recall:.1%}", f"{score.precision:.1%}")
    Console(stderr=True).print(table)


def _line(score: ClassScore) -> str:
    return f"{score.name}\t{score.images}\t{score.recall:.4f}\t{score.precision:.4f}"


def _show(predictions: list[Prediction]) -> None:
    for prediction in predictions:
        named = ", ".join(f"{name} {probability:.1%}" for name, probability in prediction.classes)
        typer.echo(f"{prediction.path}: {named}")


def _metrics(metrics: dict[str, float]) -> str:
    return f"{metrics['accuracy']:.1%} right"
