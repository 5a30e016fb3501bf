"""The things that stand in a Toyscapes street, each painted as a few flat polygons."""

import math
from typing import NamedTuple

from sfseg.data.toyscapes.canvas import (
    WHOLE,
    Array,
    Canvas,
    Triple,
    discs,
    grid,
    moved,
    rects,
    shape,
    strips,
)

(
    ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY, PERSON,
    RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE,
) = range(19)  # fmt: skip

GLASS, DARK, TYRE, SKIN = (58, 74, 92), (40, 40, 44), (28, 28, 30), (214, 164, 130)
HEADLIGHT, TAILLIGHT, PALE = (250, 245, 215), (225, 30, 25), (225, 225, 220)
CLOTHES = (
    (190, 45, 50),
    (45, 75, 160),
    (60, 60, 66),
    (225, 215, 195),
    (60, 120, 75),
    (150, 80, 140),
)
TROUSERS = ((45, 50, 75), (35, 35, 38), (110, 95, 75), (80, 85, 95))
LEAVES = ((62, 118, 48), (78, 132, 52), (52, 104, 58), (92, 128, 46))
FACADES = ((196, 150, 110), (172, 92, 74), (205, 190, 160), (150, 140, 138), (186, 120, 90))


_PAINTS = (
    (180, 30, 35), (40, 70, 150), (205, 205, 208), (50, 52, 58), (120, 125, 130), (30, 95, 85),
)  # fmt: skip


class Vehicle(NamedTuple):
    """Size in metres and the shapes of the back and the side, painted in order."""

    label: int
    width: float
    height: float
    length: float
    bodies: tuple[Triple, ...]
    back: tuple[tuple[str, Array], ...]
    side: tuple[tuple[str, Array], ...]


VEHICLES = {
    "car": Vehicle(
        CAR, 1.8, 1.5, 4.3,
        _PAINTS,
        (
            ("dark", rects((0.05, 0, 0.95, 0.3))),
            ("body", rects((0, 0.14, 1, 0.62))),
            ("body", shape((0.05, 0.6), (0.95, 0.6), (0.82, 1), (0.18, 1))),
            ("glass", shape((0.12, 0.62), (0.88, 0.62), (0.78, 0.93), (0.22, 0.93))),
            ("lamp", rects((0.03, 0.42, 0.2, 0.56), (0.8, 0.42, 0.97, 0.56))),
            ("pale", rects((0.36, 0.28, 0.64, 0.38))),
        ),
        (
            ("body", rects((0, 0.14, 1, 0.62))),
            ("body", shape((0.04, 0.6), (0.14, 1), (0.62, 1), (0.8, 0.6))),
            ("glass", shape((0.1, 0.62), (0.17, 0.93), (0.6, 0.93), (0.73, 0.62))),
            ("tyre", discs((0.2, 0.2, 0.085, 0.22), (0.8, 0.2, 0.085, 0.22))),
        ),
    ),
    "truck": Vehicle(
        TRUCK, 2.5, 3.5, 9.0,
        ((215, 215, 210), (60, 100, 165), (215, 140, 50), (80, 130, 95)),
        (
            ("dark", rects((0.06, 0, 0.94, 0.3))),
            ("body", rects((0, 0.28, 1, 1))),
            ("trim", rects((0, 0.25, 1, 0.3), (0.485, 0.3, 0.515, 0.98))),
            ("lamp", rects((0.02, 0.18, 0.14, 0.25), (0.86, 0.18, 0.98, 0.25))),
            ("tyre", rects((0.04, 0, 0.22, 0.16), (0.78, 0, 0.96, 0.16))),
        ),
        (
            ("dark", rects((0, 0.16, 0.98, 0.28))),
            ("body", rects((0, 0.28, 0.74, 1))),
            ("trim", shape((0.78, 0.14), (1, 0.14), (1, 0.5), (0.95, 0.8), (0.78, 0.8))),
            ("glass", shape((0.84, 0.5), (0.98, 0.5), (0.94, 0.74), (0.84, 0.74))),
            ("tyre", discs(*((s, 0.14, 0.06, 0.15) for s in (0.12, 0.26, 0.88)))),
        ),
    ),
    "bus": Vehicle(
        BUS, 2.6, 3.1, 11.5,
        ((232, 180, 30), (236, 168, 40), (205, 55, 40)),
        (
            ("dark", rects((0.05, 0, 0.95, 0.15))),
            ("body", rects((0, 0.08, 1, 1))),
            ("glass", rects((0.07, 0.45, 0.93, 0.82))),
            ("dark", rects((0.25, 0.87, 0.75, 0.96))),
            ("lamp", rects((0.03, 0.2, 0.14, 0.36), (0.86, 0.2, 0.97, 0.36))),
        ),
        (
            ("body", rects((0, 0.08, 1, 1))),
            ("glass", moved(grid(7, 1, 0.86), (1, 0.4), (0, 0.46))),
            ("pale", rects((0, 0.36, 1, 0.42))),
            ("tyre", discs((0.2, 0.12, 0.045, 0.15), (0.78, 0.12, 0.045, 0.15))),
        ),
    ),
    "train": Vehicle(
        TRAIN, 2.7, 3.7, 32.0,
        ((150, 30, 70), (35, 120, 130), (160, 40, 60)),
        (
            ("dark", rects((0.1, 0, 0.9, 0.12))),
            ("pale", shape((0, 0.06), (1, 0.06), (1, 0.8), (0.86, 1), (0.14, 1), (0, 0.8))),
            ("body", rects((0, 0.06, 1, 0.42))),
            ("glass", shape((0.1, 0.46), (0.9, 0.46), (0.8, 0.84), (0.2, 0.84))),
            ("lamp", discs((0.15, 0.3, 0.07, 0.05), (0.85, 0.3, 0.07, 0.05))),
        ),
        (
            ("dark", rects((0, 0.02, 1, 0.14))),
            ("pale", rects((0, 0.1, 1, 1))),
            ("body", rects((0, 0.1, 1, 0.42), (0, 0.92, 1, 1))),
            ("glass", moved(grid(14, 1, 0.8), (1, 0.34), (0, 0.5))),
            ("dark", rects((0.325, 0.1, 0.345, 1), (0.66, 0.1, 0.68, 1))),
        ),
    ),
}  # fmt: skip

_WHEELS = discs((0.2, 0.32, 0.2, 0.32), (0.8, 0.32, 0.2, 0.32))
_HUBS = discs((0.2, 0.32, 0.14, 0.23), (0.8, 0.32, 0.14, 0.23))
_FRAME = strips(
    0.07, ((0.2, 0.32), (0.4, 0.75)), ((0.4, 0.7), (0.48, 0.3)), ((0.48, 0.3), (0.72, 0.8)),
    ((0.72, 0.9), (0.8, 0.32)),
)  # fmt: skip
_BAR = rects((0.38, 0.7, 0.73, 0.76), (0.32, 0.82, 0.46, 0.88), (0.64, 0.9, 0.76, 0.96))
_ENGINE = rects((0.3, 0.25, 0.68, 0.62))
_TANK = shape(
    (0.05, 0.66), (0.2, 0.8), (0.5, 0.78), (0.72, 1), (0.9, 0.66), (0.62, 0.5), (0.28, 0.5)
)
_RIDER_LEGS = strips(0.15, ((0.42, 0.8), (0.6, 0.62)), ((0.6, 0.66), (0.5, 0.22)))
_RIDER_TORSO = shape((0.3, 0.74), (0.52, 0.74), (0.66, 1.3), (0.5, 1.42), (0.4, 1.32))
_RIDER_ARM = strips(0.1, ((0.72, 0.92), (0.58, 1.26)))
_RIDER_HEAD = discs((0.6, 1.54, 0.085, 0.14))
_TORSO = shape((0.14, 0.44), (0.86, 0.44), (0.9, 0.8), (0.7, 0.86), (0.3, 0.86), (0.1, 0.8))
_HEAD = discs((0.5, 0.93, 0.2, 0.075))
_DIAMOND = shape((0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5))
_TRIANGLE = shape((0, 0), (1, 0), (0.5, 1))
_RED = (205, 25, 30)
# Outer shape, inner shape and their colours: no entry, danger, parking, priority.
_PLATES = (
    (discs((0.5, 0.5, 0.5, 0.5)), discs((0.5, 0.5, 0.33, 0.33)), _RED, PALE),
    (_TRIANGLE, moved(_TRIANGLE, (0.54, 0.54), (0.23, 0.15)), _RED, (250, 240, 190)),
    (WHOLE, rects((0.3, 0.2, 0.7, 0.8)), (30, 80, 190), PALE),
    (_DIAMOND, moved(_DIAMOND, (0.5, 0.5), (0.25, 0.25)), PALE, (245, 195, 20)),
)


# At 128 rows, life-sized posts, plates and lamps would be below a pixel beyond 20 m.
_STREET_FURNITURE = 1.6
_PEOPLE = 1.25


def paint_vehicle(
    canvas: Canvas, kind: str, x: float, z: float, *, oncoming: bool, crossing: bool = False
) -> None:
    """A car, truck, bus or train; a crossing one shows its side to the camera."""
    vehicle = VEHICLES[kind]
    inks = {
        "body": canvas.varied(canvas.pick(vehicle.bodies), 10),
        "trim": canvas.varied((70, 80, 110), 20),
        "lamp": HEADLIGHT if oncoming else TAILLIGHT,
        "glass": GLASS, "dark": DARK, "tyre": TYRE, "pale": PALE,
    }  # fmt: skip
    half = vehicle.width / 2
    if crossing:
        views = [(canvas.front(x, z, vehicle.length, vehicle.height), vehicle.side)]
    else:
        views = [(canvas.front(x, z, vehicle.width, vehicle.height), vehicle.back)]
        if abs(x) > half:
            near = x - math.copysign(half, x)
            side = canvas.side(near, z, vehicle.length, vehicle.height)
            if oncoming:
                end = side.origin + side.axes[0]
                side = side._replace(axes=side.axes * [[-1], [1]], origin=end)
            views.insert(0, (side, vehicle.side))
    for face, parts in views:
        # Farther away than 30 m, the last details are below a pixel.
        for role, shapes in parts if z < 30 else parts[:4]:
            canvas.fill(face, shapes, inks[role], vehicle.label)


def paint_person(canvas: Canvas, x: float, z: float) -> None:
    """Someone on foot, standing or in mid-stride."""
    width, height = canvas.between(0.5, 0.68), canvas.between(1.5, 1.85)
    face = canvas.front(x, z, width * _PEOPLE, height * _PEOPLE)
    stride = canvas.between(0.02, 0.28)
    legs = strips(0.3, ((0.5 - stride, 0), (0.4, 0.48)), ((0.5 + stride, 0), (0.6, 0.48)))
    canvas.fill(face, legs, canvas.varied(canvas.pick(TROUSERS)), PERSON)
    canvas.fill(face, _TORSO, canvas.varied(canvas.pick(CLOTHES)), PERSON)
    canvas.fill(face, _HEAD, canvas.varied(SKIN), PERSON)


def paint_two_wheeler(canvas: Canvas, x: float, z: float, *, motor: bool, ridden: bool) -> None:
    """A bicycle or motorcycle in side view, foreshortened by its heading."""
    label = MOTORCYCLE if motor else BICYCLE
    length = (2.1 if motor else 1.75) * canvas.between(0.55, 1.0) * canvas.pick((-1, 1))
    face = canvas.front(x, z, length * _PEOPLE, 1.15 * _PEOPLE)
    colour = canvas.varied(canvas.pick(_PAINTS))
    canvas.fill(face, _WHEELS, TYRE, label)
    if motor:
        canvas.fill(face, _ENGINE, (95, 95, 100), label)
        canvas.fill(face, _TANK, colour, label)
    else:
        canvas.fill(face, _HUBS, (150, 150, 148), label)
        canvas.fill(face, _FRAME, colour, label)
        canvas.fill(face, _BAR, colour, label)
    if ridden:
        canvas.fill(face, _RIDER_TORSO, canvas.varied(canvas.pick(CLOTHES)), RIDER)
        canvas.fill(face, _RIDER_LEGS, canvas.varied(canvas.pick(TROUSERS)), RIDER)
        canvas.fill(face, _RIDER_ARM, canvas.varied(SKIN), RIDER)
        helmet = canvas.pick(CLOTHES) if motor else SKIN
        canvas.fill(face, _RIDER_HEAD, canvas.varied(helmet), RIDER)


def paint_lamp_post(canvas: Canvas, x: float, z: float) -> None:
    """A high post with an arm over the road."""
    height, steel = canvas.between(5, 7.5), canvas.varied((120, 124, 122), 10)
    width = 0.16 * _STREET_FURNITURE
    canvas.fill(canvas.front(x, z, width, height), WHOLE, steel, POLE)
    arm = -math.copysign(1.6, x)
    canvas.fill(canvas.front(x + arm / 2, z, 1.6, width, height), WHOLE, steel, POLE)


def paint_sign(canvas: Canvas, x: float, z: float) -> None:
    """A plate of one of four shapes on a thin post."""
    height = canvas.between(2.1, 2.8)
    width = 0.11 * _STREET_FURNITURE
    canvas.fill(canvas.front(x, z, width, height + 0.3), WHOLE, (135, 138, 140), POLE)
    outer, inner, border, centre = canvas.pick(_PLATES)
    extent = canvas.between(0.75, 1.05) * _STREET_FURNITURE
    plate = canvas.front(x, z, extent, extent, height)
    canvas.fill(plate, outer, canvas.varied(border, 8), SIGN)
    canvas.fill(plate, inner, centre, SIGN)


def paint_traffic_light(canvas: Canvas, x: float, z: float) -> None:
    """A post with a box of three lamps and, at times, a second box on an arm."""
    steel = canvas.varied((105, 108, 108), 8)
    heads = [(x, 2.5)]
    overhead = canvas.random() < 0.5
    top = 5.0 if overhead else 2.6
    width = 0.16 * _STREET_FURNITURE
    canvas.fill(canvas.front(x, z, width, top), WHOLE, steel, POLE)
    if overhead:
        reach = -math.copysign(canvas.between(2, 3.5), x)
        canvas.fill(canvas.front(x + reach / 2, z, abs(reach), width, top), WHOLE, steel, POLE)
        heads.append((x + reach, 4.4))
    lit = canvas.pick((0, 0, 2, 2, 1))
    lamps = ((60, 230, 120), (250, 190, 40), (250, 50, 40))
    for where, y in heads:
        box = canvas.front(where, z, 0.5 * _STREET_FURNITURE, 1.25 * _STREET_FURNITURE, y)
        canvas.fill(box, WHOLE, (34, 38, 36), LIGHT)
        canvas.fill(box, discs((0.5, 0.18 + 0.32 * lit, 0.36, 0.15)), lamps[lit], LIGHT)


def paint_tree(canvas: Canvas, x: float, z: float, height: float) -> None:
    """A trunk, vegetation like its crown, and a crown of dark and sunlit clumps."""
    face = canvas.front(x, z, 0.7 * height, height)
    canvas.fill(face, rects((0.46, 0, 0.54, 0.5)), (92, 70, 52), VEGETATION)
    r, g, b = canvas.varied(canvas.pick(LEAVES), 10)
    between = canvas.between
    for level, count in ((0.85, 4), (1.12, 2)):
        crown = [
            (between(0.25, 0.75), between(0.45, 0.85), between(0.15, 0.28), between(0.1, 0.2))
            for _ in range(count)
        ]
        canvas.fill(face, discs(*crown), (r * level, g * level, b * level), VEGETATION)


def paint_building(canvas: Canvas, x: float, z: float, length: float, height: float) -> None:
    """A facade along the street with its near end wall, windows and a shop floor."""
    colour, floors = canvas.varied(canvas.pick(FACADES)), max(2, round(height / 3.2))
    depth = math.copysign(9, x)
    end = canvas.front(x + depth / 2, z, 9, height)
    canvas.fill(end, WHOLE, colour, BUILDING)
    front = canvas.side(x, z, length, height)
    canvas.fill(front, WHOLE, colour, BUILDING)
    if z < 50:
        pane = canvas.varied((70, 84, 104), 10)
        windows = grid(max(2, round(length / 2.6)), floors, 0.55, 0.12)
        canvas.fill(front, windows, pane, BUILDING)
        if z < 30:
            canvas.fill(front, rects((0.06, 0.01, 0.94, 0.75 / floors)), (88, 70, 62), BUILDING)
        if 8 < z < 30:
            canvas.fill(end, grid(3, floors, 0.4, 0.12), pane, BUILDING)


def paint_wall(canvas: Canvas, x: float, z: float, length: float, height: float) -> None:
    """Grey masonry with joints and a coping."""
    colour = canvas.varied((164, 158, 152), 8)
    face = canvas.side(x, z, length, height)
    canvas.fill(face, WHOLE, colour, WALL)
    r, g, b = colour
    canvas.fill(face, grid(max(1, round(length / 3)), 1, 0.05), (r - 40, g - 40, b - 40), WALL)
    canvas.fill(face, rects((0, 0.9, 1, 1)), (r + 35, g + 35, b + 35), WALL)


def paint_fence(canvas: Canvas, x: float, z: float, length: float, height: float) -> None:
    """Wooden pickets and two rails; the gaps between them count as fence."""
    face = canvas.side(x, z, length, height)
    canvas.fill(face, WHOLE, (72, 66, 58), FENCE)
    wood = canvas.varied(canvas.pick(((176, 128, 78), (150, 112, 74))), 8)
    canvas.fill(face, grid(max(2, round(length / 0.7)), 1, 0.5), wood, FENCE)
    canvas.fill(face, rects((0, 0.7, 1, 0.8), (0, 0.2, 1, 0.3)), wood, FENCE)


def paint_hedge(canvas: Canvas, x: float, z: float, length: float, height: float) -> None:
    """Bushes in a row: a box with a bumpy top."""
    leaf = canvas.varied(canvas.pick(LEAVES), 8)
    face = canvas.side(x, z, length, height)
    canvas.fill(face, rects((0, 0, 1, 0.85)), leaf, VEGETATION)
    bumps = [(s, 0.82, 0.14, canvas.between(0.1, 0.3)) for s in (0.1, 0.3, 0.5, 0.7, 0.9)]
    canvas.fill(face, discs(*bumps), leaf, VEGETATION)
