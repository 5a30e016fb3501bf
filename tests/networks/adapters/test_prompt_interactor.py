import torch

from sfseg.networks.adapters.prompt_interactor import PromptInteractor


def test_gradients_of_narrow_maps_do_not_hold_old_memory() -> None:
    torch.manual_seed(0)
    interactor = PromptInteractor(16, 32, num_heads=4)
    tokens = torch.randn(2, 2, 2, 16)
    prompt = [torch.randn(2, 16, side, side) for side in (4, 2, 1)]
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        for _ in range(8):
            left = [torch.full((32, 16, 3, 3), torch.nan, dtype=dtype) for _ in range(8)]
            del left
            interactor.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
                _, carried = interactor(tokens, prompt)
            torch.stack([part.float().square().sum() for part in carried]).sum().backward()
            weight = interactor.halvings[2].weight.grad
            assert weight is not None
            gradients.append(weight.clone())
    for gradient in gradients[1:]:
        # Half precision has eight bits, and each processor adds them in its own way.
        assert (gradient - gradients[0]).norm() < 0.05 * gradients[0].norm()
