"""``harken models`` and ``harken info`` print what the models say of themselves."""

from __future__ import annotations

import json

from harken import models
from harken.cli import main


def test_models_are_listed(capsys):
    assert main(["models"]) == 0
    assert "mp-senet" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == models.list_models()


def test_info_prints_every_fact(monkeypatch, capsys):
    facts = {"slug": "mp-senet", "parameters": 2259999, "scores": {"pesq_wb": 2.5}, "licence": None}
    monkeypatch.setattr(models, "info", lambda slug, weights=None: facts, raising=False)
    assert main(["info", "mp-senet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == facts
    assert main(["info", "mp-senet"]) == 0
    out = capsys.readouterr().out
    assert "2,259,999" in out
    assert "scores: pesq wb" in out


def test_an_unknown_model_is_one_line_and_exit_2(capsys):
    assert main(["enhance", __file__, "--model", "nope"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
