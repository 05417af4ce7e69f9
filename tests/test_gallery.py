"""The slices that were drawn: which are there already, and what is drawn for whom."""

from types import SimpleNamespace

from oasisvq.app import gallery


def test_who_asks_for_a_slice_waits_for_no_other(monkeypatch):
    drawn, store = [], {}

    def draw(model, settings, upper=None):
        drawn.append(settings["seed"])
        return SimpleNamespace(settings=settings)

    monkeypatch.setattr(gallery, "draw_apart", draw)
    monkeypatch.setattr(gallery, "session_store", lambda: store)
    monkeypatch.setattr(gallery, "_first_seed", lambda: 100)
    info = {"files": {"prior.safetensors": {"sha256": "of no file"}}}
    model = SimpleNamespace(info=info, preset=SimpleNamespace(levels=32))
    eight = gallery.fresh_settings(model)
    own = gallery.PLAIN | {"seed": 5, "level": 3}

    mine = gallery.draw_once(model, own)
    assert drawn == [5]
    assert gallery.draw_strip(model, [own, eight[2]]) == [mine, gallery.fresh(model, 2)]
    assert gallery.draw_once(model, eight[2]) is gallery.fresh(model, 2)
    assert drawn == [5, 102]
    assert [*store[gallery.GALLERY].values()] == [mine]  # those of the server are nobody's own
