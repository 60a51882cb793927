import pytest

from icl_embed.report.page import build_report
from tests.icl_embed.report.run_folders import make_run


@pytest.fixture(scope="session")
def run_inputs(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def report(run_inputs, tmp_path_factory):
    """The folder of the report of a realistic run."""
    folder = tmp_path_factory.mktemp("report")
    build_report(run_inputs, folder)
    return folder
