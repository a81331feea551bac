"""Records to report on."""

import pytest

from tests.report.records import a_run, attention, chain, hostile, residual


@pytest.fixture(scope="session")
def run():
    return a_run()


@pytest.fixture(scope="session", params=[residual, chain, attention, hostile])
def topology(request):
    return request.param()


@pytest.fixture(scope="session")
def hostile_topology():
    return hostile()


@pytest.fixture(scope="session")
def long_chain():
    return chain()
