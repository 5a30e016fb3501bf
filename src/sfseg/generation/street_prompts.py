"""Prompts of urban scenes, of the form that CLOUDS has a language model write.

CLOUDS (Benigmim et al., CVPR 2024) generates with 100 prompts "A {photo, picture or snapshot} of
{urban subject} {weather, time or season}". These are composed from words of our own.
"""

OPENINGS = ("A photo", "A picture", "A snapshot")
SUBJECTS = (
    "a busy road", "a pedestrian crossing", "a city street", "a truck at a crossroads",
    "cyclists on a bike lane", "people waiting at a bus stop", "a narrow old town lane",
    "a tram on its tracks", "parked cars along a kerb", "a motorcycle between cars",
    "a traffic jam on an avenue", "a roundabout", "a residential street with trees",
    "a bus in front of shops", "a road under a bridge", "a delivery van on a side street",
    "a junction with traffic lights", "children walking to school", "a suburban road with fences",
    "a boulevard with street lamps",
)  # fmt: skip
CONDITIONS = (
    "in daylight", "on a rainy day", "in the winter", "in the fog", "at night", "at sunset",
    "in the snow", "under an overcast sky", "on a summer morning", "in autumn", "after a storm",
    "at dawn", "in bright sunshine", "in spring", "at dusk", "in heavy rain", "on a cloudy evening",
    "in harsh noon light", "on wet asphalt", "in a light drizzle",
)  # fmt: skip
NUMBER = 100


def street_prompts() -> list[str]:
    """The 100 prompts, always the same: each subject in five conditions, each condition in five."""
    return [
        f"{OPENINGS[j % len(OPENINGS)]} of {SUBJECTS[j % len(SUBJECTS)]} "
        # One condition further in each round, so that no pair comes twice.
        f"{CONDITIONS[(j + j // len(SUBJECTS)) % len(CONDITIONS)]}"
        for j in range(NUMBER)
    ]
