"""Addresses as a person has to write them."""

import pytest
from records import deployment, member, snapshot

from fallow.decide.routes import conflicts, render
from fallow.decide.views import route_views
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import DeploymentSpec, RouteSpec
from fallow.model.labels import Variable
from fallow.model.members import HTTP_PORT_VARIABLE, Role


@pytest.mark.parametrize(
    ("ports", "address"),
    [
        ([], "http://shop.test/cart"),
        (["80"], "http://shop.test/cart"),
        (["8080", "8080"], "http://shop.test:8080/cart"),
        (["8080", "80"], "http://shop.test/cart"),
        (["8080/../x"], "http://shop.test/cart"),
        (["123456"], "http://shop.test/cart"),
    ],
)
def test_an_address_has_the_port_that_all_gateways_report(ports: list[str], address: str) -> None:
    spec = DeploymentSpec(
        container=ContainerSpec(image="shop:1"), routes=(RouteSpec(host="shop.test", path="/cart", port=80),)
    )
    gateways = [
        member(f"g{number}", role=Role.GATEWAY, variables=(Variable(name=HTTP_PORT_VARIABLE, value=port),))
        for number, port in enumerate(ports)
    ]
    state = snapshot(deployment(spec=spec), *gateways)
    (view,) = route_views(state, {}, render(state), conflicts(state), {})
    assert view.address == address
