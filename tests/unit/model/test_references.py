import pytest

from fallow.model.references import qualified


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/library/nginx:1", "docker.io/library/nginx:1"),
        ("localhost/app", "localhost/app:latest"),
        ("10.0.0.1:5000/app", "10.0.0.1:5000/app:latest"),
        ("10.0.0.1:5000/deep/er/app:2", "10.0.0.1:5000/deep/er/app:2"),
        ("registry.example/a/b@sha256:0a", "registry.example/a/b@sha256:0a"),
        ("nginx:1@sha256:0a", "docker.io/library/nginx@sha256:0a"),
    ],
)
def test_references_in_full(short: str, full: str) -> None:
    assert qualified(short) == full
    assert qualified(full) == full
