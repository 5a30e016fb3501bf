"""The layout of a Toyscapes street: what stands where, painted from far to near."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from sfseg.data.toyscapes import objects
from sfseg.data.toyscapes.canvas import WHOLE, Canvas, Triple

_FAR = 600.0
_KERB_STONE, _MARKING, _RAIL = (196, 192, 188), (222, 222, 215), (60, 52, 50)
_BLUE, _GREY = (92, 150, 222), (208, 210, 214)


class Street:
    """Draws a layout on construction; :meth:`paint` puts it on the canvas.

    ``kerb`` and ``front`` are the X of the road's edge and of the house fronts by side (-1 is
    left); the camera drives in the right lane.
    """

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.things: list[tuple[float, Callable[[], None]]] = []
        self.footprints: list[tuple[float, float, float, float]] = []
        between, scale = canvas.between, canvas.style.road_scale
        self.kerb = {-1: -scale * between(5.5, 8), 1: scale * between(3.2, 5)}
        self.front = {side: x + side * scale * between(3.5, 7) for side, x in self.kerb.items()}
        self.rails = canvas.random() < 0.3
        self.train = self.rails and canvas.random() < 0.6 * canvas.style.heavy
        self._place_moving()
        for side in (-1, 1):
            self._place_parked(side)
            self._place_people(side)
            self._place_two_wheelers(side)
            self._place_furniture(side)

    def paint(self) -> None:
        self._paint_ground()
        self._paint_sky()
        self._paint_skyline()
        for side in (-1, 1):
            self._paint_frontage(side)
        if self.footprints:
            self.canvas.cast_shadows(np.array(self.footprints))
        for _, paint in sorted(self.things, key=lambda thing: -thing[0]):
            paint()

    def _number(self, mean: float) -> int:
        """A random count with this mean."""
        return int(mean * self.canvas.between(0.5, 1.5) + self.canvas.random())

    def _put(
        self, paint: Callable[[], None], x: float, z: float, size: tuple[float, float, float]
    ) -> None:
        """Keeps a thing of a size (width, height, length) if some of it can be seen."""
        width, height, length = size
        if self.canvas.sees(abs(x) - width / 2, z + length):
            self.things.append((z, paint))
            self.footprints.append((x, z, width, height))

    def _put_vehicle(self, kind: str, x: float, z: float, oncoming: bool) -> float:
        vehicle = objects.VEHICLES[kind]
        paint = partial(objects.paint_vehicle, self.canvas, kind, x, z, oncoming=oncoming)
        self._put(paint, x, z, (vehicle.width, vehicle.height, vehicle.length))
        return vehicle.length

    def _kind(self) -> str:
        share = 0.12 * self.canvas.style.heavy
        chance = self.canvas.random()
        return "bus" if chance < share else "truck" if chance < 2 * share else "car"

    def _place_moving(self) -> None:
        canvas, traffic = self.canvas, self.canvas.style.traffic
        if self.train:
            self._put_vehicle("train", self.kerb[-1] + 2.0, canvas.between(7, 22), True)
        lanes = ((0.0, False),) if self.train else ((-3.5, True), (0.0, False))
        for lane, oncoming in lanes:
            z = canvas.between(7, 30) / traffic
            while z < 60:
                z += self._put_vehicle(self._kind(), lane + canvas.between(-0.5, 0.5), z, oncoming)
                z += canvas.between(6, 30) / traffic
        if canvas.random() < 0.15 * traffic:
            x, z = canvas.between(-9, 7), canvas.between(16, 35)
            kind = self._kind()
            self.things.append((z, partial(
                objects.paint_vehicle, canvas, kind, x, z, oncoming=False, crossing=True
            )))  # fmt: skip

    def _place_parked(self, side: int) -> None:
        canvas, style = self.canvas, self.canvas.style
        if self.train and side < 0:
            return
        chance = canvas.between(0, 0.85) * min(1.3, style.traffic)
        z = canvas.between(5, 10)
        while z < 50:
            if canvas.random() < chance:
                kind = "truck" if canvas.random() < 0.05 * style.heavy else "car"
                z += self._put_vehicle(kind, self.kerb[side] - side * 1.05, z, side < 0) - 4
            z += canvas.between(5.5, 9)

    def _place_people(self, side: int) -> None:
        canvas = self.canvas
        for _ in range(self._number(2.4 * canvas.style.pedestrians)):
            z = canvas.between(6, 14) if canvas.random() < 0.45 else canvas.between(10, 45)
            x = canvas.between(self.kerb[side], self.front[side] - side * 0.5)
            if canvas.random() < 0.1:
                x = canvas.between(0, self.kerb[side])
            self._put(partial(objects.paint_person, canvas, x, z), x, z, (0.5, 1.7, 0))

    def _place_two_wheelers(self, side: int) -> None:
        """Parked on the sidewalk or ridden beside the parked cars."""
        canvas = self.canvas
        for _ in range(self._number(0.75 * canvas.style.two_wheelers)):
            z = canvas.between(5.5, 13) if canvas.random() < 0.6 else canvas.between(10, 30)
            ridden, motor = canvas.random() < 0.55, canvas.random() < 0.48
            x = self.kerb[side] + side * (canvas.between(-3.0, -2.1) if ridden else 0.6)
            paint = partial(objects.paint_two_wheeler, canvas, x, z, motor=motor, ridden=ridden)
            self._put(paint, x, z, (1.4, 1.3, 0))

    def _place_furniture(self, side: int) -> None:
        """Lamp posts, signs, traffic lights and trees along the kerb."""
        canvas = self.canvas
        x = self.kerb[side] + side * 0.5
        step = 15 / canvas.style.furniture
        z = canvas.between(5, 5 + step)
        while z < 70:
            chance = canvas.random()
            if chance < 0.3:
                self._put(partial(objects.paint_lamp_post, canvas, x, z), x, z, (0.2, 6, 0))
            elif chance < 0.6:
                self._put(partial(objects.paint_sign, canvas, x, z), x, z, (0.5, 2.8, 0))
            elif chance < 0.77:
                self._put(partial(objects.paint_traffic_light, canvas, x, z), x, z, (0.4, 3.5, 0))
            elif chance < 0.77 + 0.6 * canvas.style.greenery:
                height = canvas.between(3.5, 7)
                paint = partial(objects.paint_tree, canvas, x, z, height)
                self._put(paint, x, z, (0.5 * height, height, 0))
            z += canvas.between(0.5, 1.5) * step

    def _lay(self, x: float, width: float, colour: Triple, label: int) -> None:
        """Ground of one kind from the image's lower edge to the horizon."""
        canvas = self.canvas
        near = 0.9 * canvas.focal * canvas.eye / (canvas.height - canvas.horizon)
        canvas.fill(canvas.strip(x, width, near, _FAR), WHOLE, colour, label)

    def _paint_ground(self) -> None:
        """Road, sidewalks, verges, and grass or paving beyond; then its haze."""
        canvas = self.canvas
        paved = canvas.varied((168, 158, 156), 8)
        grass = canvas.varied((128, 150, 66), 8)
        for side in (-1, 1):
            kerb, front = self.kerb[side], self.front[side]
            land = (grass, objects.TERRAIN) if canvas.random() < 0.75 else (paved, objects.SIDEWALK)
            self._lay(front, side * 900, *land)
            self._lay(kerb, front - kerb, paved, objects.SIDEWALK)
            if canvas.random() < 0.55:
                edge = canvas.pick((kerb, front - side * 2.5))
                self._lay(edge, side * canvas.between(1.4, 2.5), grass, objects.TERRAIN)
        asphalt = canvas.varied((98, 98, 104), 7)
        self._lay(self.kerb[-1], self.kerb[1] - self.kerb[-1], asphalt, objects.ROAD)
        for side in (-1, 1):
            self._lay(self.kerb[side], side * 0.2, _KERB_STONE, objects.SIDEWALK)
        self._paint_markings()
        rows = max(1, int(canvas.horizon))
        below = np.maximum(np.arange(rows, canvas.height) - canvas.horizon + 0.5, 0.5)
        depth = canvas.focal * canvas.eye / below
        clear = np.exp(-depth * canvas.style.haze / 100).astype(np.float32)[:, None]
        for channel, veil in enumerate(canvas.haze):
            ground = canvas.pixels[rows:, :, channel]
            ground[:] = ground * clear + veil * (1 - clear)

    def _paint_markings(self) -> None:
        """Dashes between the lanes, at times a zebra crossing or the rails of a tram."""
        canvas = self.canvas
        marks = [(-1.85, 0.2, float(z), 3.0) for z in range(3, 60, 7)]
        if canvas.random() < 0.25:
            z = canvas.between(8, 20)
            stripes = np.arange(self.kerb[-1] + 0.4, self.kerb[1] - 0.5, 1.1)
            marks += [(float(x), 0.55, z, 3.0) for x in stripes]
        for x, width, z, length in marks:
            strip = canvas.strip(x, width, z, z + length)
            canvas.fill(strip, WHOLE, _MARKING, objects.ROAD)
        for offset in (1.3, 2.7) if self.rails else ():
            self._lay(self.kerb[-1] + offset, 0.12, _RAIL, objects.ROAD)

    def _paint_sky(self) -> None:
        canvas, overcast = self.canvas, self.canvas.style.overcast
        rows = max(1, int(canvas.horizon))
        zenith = (1 - overcast) * np.array(_BLUE) + overcast * np.array(_GREY)
        zenith += canvas.displaced[objects.SKY]
        rise = np.linspace(1, 0, rows)[:, None] ** 0.8
        sky = zenith * rise + np.array(canvas.haze) * (1 - rise)
        for channel, values in enumerate(np.clip(sky, 0, 255).astype(np.uint8).T):
            canvas.pixels[:rows, :, channel] = values[:, None]
        canvas.pixels[:rows, :, 3] = objects.SKY

    def _paint_skyline(self) -> None:
        """What closes the street at its distant end."""
        canvas, x = self.canvas, -90.0
        while x < 90:
            width, z = canvas.between(14, 36), canvas.between(110, 150)
            face = canvas.front(x + width / 2, z, width, canvas.between(4, 16))
            if canvas.random() < canvas.style.greenery:
                canvas.fill(face, WHOLE, canvas.pick(objects.LEAVES), objects.VEGETATION)
            else:
                canvas.fill(face, WHOLE, canvas.pick(objects.FACADES), objects.BUILDING)
            x += width * canvas.between(0.8, 1.3)

    def _paint_frontage(self, side: int) -> None:
        """Houses, walls, fences, hedges and trees along one side, from far to near."""
        canvas, style = self.canvas, self.canvas.style
        x, z = self.front[side], 95.0
        while canvas.sees(x, z) and z > 3:
            length = min(canvas.between(8, 15) * (1 if z < 50 else 1.8), z - 2)
            z -= length
            if canvas.random() < style.greenery:
                self._paint_planted(x, z, length)
            else:
                height = canvas.between(5, 15) * style.building_height
                objects.paint_building(canvas, x, z, length - canvas.pick((0, 0, 2)), height)

    def _paint_planted(self, x: float, z: float, length: float) -> None:
        """A plot with a house set back or trees, behind a wall, fence, hedge or nothing."""
        canvas, side = self.canvas, math.copysign(1, x)
        if canvas.random() < 0.3:
            height = canvas.between(5, 10) * canvas.style.building_height
            objects.paint_building(canvas, x + side * 6, z, length, height)
        else:
            for share in (canvas.between(0.6, 1), canvas.between(0.2, 0.5)):
                off = x + side * canvas.between(2, 6)
                objects.paint_tree(canvas, off, z + share * length, canvas.between(5, 10))
        chance = canvas.random()
        if chance < 0.32:
            objects.paint_wall(canvas, x, z, length, canvas.between(1.7, 2.8))
        elif chance < 0.66:
            objects.paint_fence(canvas, x, z, length, canvas.between(1.2, 2.0))
        elif chance < 0.82:
            objects.paint_hedge(canvas, x, z, length, canvas.between(1.0, 2.4))
