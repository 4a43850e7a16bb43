import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

WriteParquet = Callable[..., None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of decoded images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "penstock"


@pytest.fixture(scope="session")
def write_parquet() -> WriteParquet:
    """Writes a file of the documented form; image i is all of the grey level i."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    image = pytest.importorskip("PIL.Image")

    def write(
        path: Path,
        count: int,
        *,
        size: tuple[int, int] = (32, 32),
        mode: str = "RGB",
        names: Sequence[str] = ("airplane", "automobile"),
        ordered: bool = True,
        **columns: object,
    ) -> None:
        encoded = []
        for level in range(count):
            buffer = io.BytesIO()
            image.new("L", size, level).convert(mode).save(buffer, "PNG")
            encoded.append(buffer.getvalue())
        table = {
            "image": encoded,
            "label": pa.array([level % len(names) for level in range(count)], pa.int16()),
        }
        if ordered:
            table["index"] = pa.array(range(100, 100 + count), pa.int32())
        schema = {"class_names": json.dumps(names)}
        pq.write_table(pa.table(table | columns).replace_schema_metadata(schema), path)

    return write
