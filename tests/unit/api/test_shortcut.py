"""The shortcut stands on two inner names of aiohttp; what it answers is what the long way does."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from mesh.api.shortcut import PATHS_MAX, Shortcut


class Door:
    """An application of one route that counts look-ups and what the middleware saw."""

    def __init__(self):
        self.seen, self.looked_up = [], 0
        app = web.Application(middlewares=[self.guarded])
        app.router.add_post("/roles/{name}", self.answer)
        self.shortcut, resolve = Shortcut(app), app.router.resolve

        async def counted(request):
            self.looked_up += 1
            return await resolve(request)

        app.router.resolve = counted
        app.freeze()
        self.app = app

    @web.middleware
    async def guarded(self, request, handler):
        self.seen.append(request.path)
        return await handler(request)

    async def answer(self, request):
        assert request.app is self.app
        assert request.match_info.route.resource.canonical == "/roles/{name}"
        return web.Response(text=request.match_info["name"])

    def ask(self, path, method="POST", headers=None):
        request = make_mocked_request(method, path, headers or {}, app=self.app)

        async def go():
            return await self.shortcut.handle(request)

        return asyncio.run(go())


def test_the_inner_names_are_there():
    """A newer aiohttp that renames them fails here, and not at the first request."""
    assert hasattr(web.Application, "_handle")
    assert "_match_info" in web.Request.ATTRS


def test_a_path_is_looked_up_once():
    """And its parts, its route and the middleware are as they were."""
    door = Door()
    assert [door.ask("/roles/a").text for _ in range(3)] == ["a", "a", "a"]
    assert door.looked_up == 1
    assert door.seen == ["/roles/a"] * 3


def test_each_path_has_its_own_match():
    """One never gets the parts of another."""
    door = Door()
    assert [door.ask(f"/roles/{name}").text for name in "abab"] == ["a", "b", "a", "b"]


def test_what_is_not_plain_goes_the_long_way():
    """Other methods, and callers that wait for a word before they send the body."""
    door = Door()
    door.ask("/roles/a")
    door.ask("/roles/a", headers={"Expect": "100-continue"})
    assert door.looked_up == 2
    with pytest.raises(web.HTTPMethodNotAllowed):
        door.ask("/roles/a", "PUT")
    assert door.looked_up == 3


def test_memory_of_paths_is_bounded():
    """Callers may invent paths."""
    door = Door()
    for number in range(PATHS_MAX + 2):
        door.ask(f"/roles/{number}")
    assert len(door.shortcut._known) <= PATHS_MAX
