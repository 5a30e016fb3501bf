import torch

from sfseg.ops.mask_pooling import mask_pooled


def test_features_are_the_mean_over_covered_cells() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    masks = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        masks[1, 2] = -1
    found = mask_pooled(features, masks)
    for image in range(2):
        for query in range(6):
            covered = [
                features[image, :, y, x] for y in range(4) for x in range(5)
                if masks[image, query, y, x] > 0
            ]  # fmt: skip
            expected = sum(covered) / len(covered) if covered else torch.zeros(3).double()
            torch.testing.assert_close(found[image, query], expected)
    found.sum().backward()
    assert masks.grad is None and features.grad is not None


def test_a_full_mask_pools_everything() -> None:
    features = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    (pooled,) = mask_pooled(features, torch.ones(1, 1, 4, 5))
    torch.testing.assert_close(pooled[0], features[0].mean(dim=(1, 2)))
