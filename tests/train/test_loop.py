"""One loop for every system: it learns, averages, judges, and is not thrown off by a bad batch."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from harken.errors import CheckpointError, HarkenError, InputError, OutputError
from harken.train.loop import LoopConfig, StepSampler, train
from tests.train.toy import QUICK, Items, Toy, ToyConfig, ToyRecipe, weights


def test_it_learns_and_leaves_a_model_a_state_and_a_history(tmp_path):
    totals: list[float] = []
    judged: list[tuple[int, dict[str, float]]] = []
    best = train(
        ToyRecipe(config=ToyConfig(dropout=0.0)),
        replace(QUICK, steps=60, batch_size=8, validate_every=20, save_every=25),
        tmp_path / "run",
        device="cpu",
        on_step=lambda step, losses: totals.append(losses["total"]),
        on_validation=lambda step, metrics: judged.append((step, metrics)),
    )
    assert sum(totals[-10:]) < 0.3 * sum(totals[:10])
    assert [step for step, _ in judged] == [20, 40, 60]
    assert best["loss"] == min(metrics["loss"] for _, metrics in judged)
    entries = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "total" in entry] == [10, 20, 30, 40, 50, 60]
    assert [entry["step"] for entry in entries if "validation" in entry] == [20, 40, 60]
    again = Toy.from_pretrained(tmp_path / "run/best")
    assert ToyRecipe().validate(again)["loss"] == pytest.approx(best["loss"])
    found = {path.relative_to(tmp_path / "run").parts[0] for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert found == {"best", "last", "curves", "history.jsonl", "state.pt"}


def test_the_best_model_is_kept_when_later_ones_are_worse(tmp_path):
    recipe = ToyRecipe()
    scores = iter([3.0, math.nan, 1.0, 2.0])
    kept = []

    def validate(model):
        kept.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"loss": next(scores)}

    recipe.validate = validate
    best = train(recipe, replace(QUICK, steps=8), tmp_path, device="cpu")
    assert best == {"loss": 1.0, "step": 6.0}
    assert all(torch.equal(w, kept[2][name]) for name, w in Toy.from_pretrained(tmp_path / "best").state_dict().items())


def test_a_first_score_that_is_not_a_number_does_not_stay_the_best(tmp_path):
    recipe = ToyRecipe()
    scores = iter([math.nan, 2.0, 3.0])
    recipe.validate = lambda model: {"loss": next(scores)}
    assert train(recipe, QUICK, tmp_path, device="cpu") == {"loss": 2.0, "step": 4.0}
    assert '"loss": null' in (tmp_path / "history.jsonl").read_text()


def test_a_batch_that_is_not_a_number_is_skipped(tmp_path):
    losses: dict[int, float] = {}
    recipe = ToyRecipe(bad=(5,), adversary=True)  # in the third batch of two
    train(recipe, QUICK, tmp_path, device="cpu", on_step=lambda step, made: losses.update({step: made["total"]}))
    assert [step for step, loss in losses.items() if math.isnan(loss)] == [3]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_a_finite_loss_with_infinite_gradients_is_skipped_too(tmp_path):
    recipe = ToyRecipe()
    losses = recipe.losses
    recipe.losses = lambda made, step: {"total": (made[0] * 0).abs().sqrt().sum()} if step == 2 else losses(made, step)
    train(recipe, QUICK, tmp_path, device="cpu")
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_a_run_that_never_recovers_ends_with_an_error(tmp_path):
    recipe = ToyRecipe(bad=tuple(range(1000)))
    with pytest.raises(HarkenError, match=r"not a number for 100 steps .* lower learning rate"):
        train(recipe, replace(QUICK, steps=300, validate_every=300, save_every=300), tmp_path, device="cpu")


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_what_is_validated_is_the_average_of_the_weights(tmp_path, ema):
    recipe = ToyRecipe()
    name = "layers.0.weight"
    expected = recipe.model.state_dict()[name].clone()

    def on_step(step: int, losses: dict[str, float]) -> None:
        decay = min(ema, (1 + step) / (10 + step))
        expected.lerp_(recipe.model.state_dict()[name], 1 - decay)

    train(recipe, replace(QUICK, ema=ema), tmp_path, device="cpu", on_step=on_step)
    averaged = Toy.from_pretrained(tmp_path / "last").state_dict()[name]
    assert torch.allclose(averaged, expected, atol=1e-6)
    assert torch.equal(averaged, recipe.model.state_dict()[name]) == (ema == 0)


def test_a_validation_that_draws_random_numbers_changes_nothing(tmp_path):
    for every in (2, 6):
        train(ToyRecipe(adversary=True), replace(QUICK, validate_every=every), tmp_path / str(every), device="cpu")
    often, once = weights(tmp_path / "2"), weights(tmp_path / "6")
    assert all(torch.equal(often[name], once[name]) for name in once)


def test_the_model_s_loss_leaves_no_gradients_in_the_discriminator(tmp_path):
    recipe = ToyRecipe(adversary=True)
    train(recipe, QUICK, tmp_path, device="cpu")
    assert sum(recipe.heard) == 0
    assert all(parameter.requires_grad for parameter in recipe.adversary.parameters())
    before, after = ToyRecipe(adversary=True).adversary.state_dict(), recipe.adversary.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_weights_that_came_ready_for_inference_are_trained_in_training_mode(tmp_path):
    recipe = ToyRecipe()
    recipe.model.eval()
    train(recipe, QUICK, tmp_path, device="cpu")
    assert recipe.model.layers[1].running_mean.abs().max() > 0


def test_what_layers_emit_as_loss_is_trained_on(tmp_path):
    from harken.observation import emit

    class Emits(ToyRecipe):
        def generate(self, model, batch, step):
            made = super().generate(model, batch, step)
            emit(self.model, "loss", self.model.layers[0].weight.square().sum())
            return made

        def losses(self, made, step):
            return {"total": 0 * made[0].sum()}

    recipe = Emits()
    norm = recipe.model.layers[0].weight.norm().item()
    train(recipe, replace(QUICK, weight_decay=0.0), tmp_path, device="cpu")
    assert recipe.model.layers[0].weight.norm().item() < norm


def test_the_batches_of_all_processes_cover_the_items_without_overlap():
    world, batch = 3, 4
    seen = [list(StepSampler(0, 5, batch, rank, world)) for rank in range(world)]
    assert sorted(i for rank in seen for indices in rank for i in indices) == list(range(5 * batch * world))
    for rank in range(world):
        assert list(StepSampler(2, 5, batch, rank, world)) == seen[rank][2:]  # a resumed run sees what it would have
    assert len(StepSampler(2, 5, batch)) == 3
    assert len(StepSampler(7, 5, batch)) == 0


def test_schedules_rise_and_fall_as_named():
    cosine = LoopConfig(steps=1000, warmup=100, final_lr=0.1)
    assert cosine.lr_factor(0) == pytest.approx(0.01)
    assert cosine.lr_factor(100) == pytest.approx(1.0)
    assert cosine.lr_factor(550) == pytest.approx(0.55)
    assert cosine.lr_factor(1000) == pytest.approx(0.1)
    exponential = replace(cosine, schedule="exponential", decay=0.5, decay_every=200)
    assert [exponential.lr_factor(step) for step in (100, 200, 400)] == pytest.approx([1.0, 0.5, 0.25])
    assert replace(cosine, schedule="constant").lr_factor(10**6) == 1


@pytest.mark.parametrize("precision", ["bf16"])
def test_lower_precision_trains(tmp_path, precision):
    train(ToyRecipe(adversary=True), replace(QUICK, precision=precision), tmp_path, device="cpu")
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(tmp_path).values())


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"ema": 1.0},
        {"seed": -1},
        {"workers": -1},
        {"schedule": "linear"},
        {"precision": "int8"},
    ],
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(InputError):
        LoopConfig(**options)


def test_a_folder_with_a_run_in_it_is_not_overwritten(tmp_path):
    train(ToyRecipe(), QUICK, tmp_path, device="cpu")
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(InputError, match="already holds a run: pass --resume"):
        train(ToyRecipe(), QUICK, tmp_path, device="cpu")
    assert (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("config", "model", "message"),
    [
        ({"batch_size": 3}, None, "batch_size 2 -> 3"),
        ({"lr": 0.1}, None, "lr 0.05 -> 0.1"),
        ({}, ToyConfig(width=5), "model.width 4 -> 5"),
    ],
)
def test_a_run_of_other_settings_is_not_resumed(tmp_path, config, model, message):
    train(ToyRecipe(), QUICK, tmp_path, device="cpu")
    with pytest.raises(CheckpointError, match=f"other settings: {message}"):
        train(ToyRecipe(config=model), replace(QUICK, **config), tmp_path, resume=True, device="cpu")


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "list", "no step"])
def test_a_damaged_state_is_one_line(tmp_path, damage):
    train(ToyRecipe(), QUICK, tmp_path, device="cpu")
    path = tmp_path / "state.pt"
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(path.read_bytes()[:2000])
        case "text":
            path.write_text("hello")
        case "list":
            torch.save([1, 2], path)
        case _:
            state = torch.load(path, weights_only=True)
            torch.save({name: value for name, value in state.items() if name != "step"}, path)
    with pytest.raises(CheckpointError, match=r"cannot resume from .* it is damaged") as caught:
        train(ToyRecipe(), QUICK, tmp_path, resume=True, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_one_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OutputError, match="cannot use the folder"):
            train(ToyRecipe(), QUICK, folder, device="cpu")


def test_a_full_disk_leaves_the_last_whole_state(tmp_path, monkeypatch):
    train(ToyRecipe(), QUICK, tmp_path, device="cpu")
    before = weights(tmp_path)

    def full_disk(state: object, path: object) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed\nmore")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OutputError, match=r"cannot save the run .*failed writing"):
        train(ToyRecipe(), replace(QUICK, steps=8), tmp_path, resume=True, device="cpu")
    monkeypatch.undo()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path).items())
    assert not list(tmp_path.rglob("*.partial"))


def test_items_made_in_worker_processes_are_the_same(tmp_path):
    for workers in (0, 2):
        config = replace(QUICK, workers=workers, steps=2)
        train(ToyRecipe(), config, tmp_path / str(workers), device="cpu")
    alone, shared = weights(tmp_path / "0"), weights(tmp_path / "2")
    assert all(torch.equal(alone[name], shared[name]) for name in alone)
    assert len(Items(3)) == 3
