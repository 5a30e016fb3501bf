"""Swin's block: attention from its definition, and timm's block, whose layers it takes over."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from sfseg.networks.backbones.swin import PadFirstBlock, _shift_mask, pad_before_roll


def timms_block(**options: object) -> SwinTransformerBlock:
    settings: dict[str, object] = {"num_heads": 2, "always_partition": True, "dynamic_mask": True}
    return SwinTransformerBlock(8, (14, 14), **(settings | options))


@pytest.mark.parametrize("size", [(5, 6), (7, 7), (3, 10), (9, 16)])
@pytest.mark.parametrize("shifted", [False, True])
def test_swin_block_equals_attention_between_former_neighbours(
    size: tuple[int, int], shifted: bool
) -> None:
    """The reference rolls also maps that fit into one window, so four corners form four groups."""
    torch.manual_seed(0)
    block = PadFirstBlock(timms_block(shift_size=3 * shifted)).eval().double()
    nn.init.normal_(block.attn.relative_position_bias_table)
    x = torch.rand(1, *size, 8, dtype=torch.float64)
    with torch.inference_mode():
        result = block.attend(x)
        torch.testing.assert_close(result, naive_attention(block, x, 3 * shifted))


def naive_attention(block: PadFirstBlock, x: Tensor, shift: int) -> Tensor:
    """Shifted-window attention from the definition: groups of pixels, no roll and no mask."""
    attn, table = block.attn, block.attn.relative_position_bias_table
    height, width = (-(-side // 7) * 7 for side in x.shape[1:3])
    padded = F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1]))[0]
    query, key, value = attn.qkv(padded).unflatten(-1, (3, attn.num_heads, -1)).unbind(2)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    # Window borders lie `shift` pixels further down and right than without shift.
    group = (rows - shift).div(7, rounding_mode="floor") * 1000
    group = group + (columns - shift).div(7, rounding_mode="floor")
    output = torch.zeros_like(value)
    for members in (group == number for number in group.unique()):
        down, right = (at[members][:, None] - at[members] for at in (rows, columns))
        scores = torch.einsum("nhc,mhc->nmh", query[members], key[members]) * attn.scale
        scores = scores + table[(down + 6) * 13 + right + 6]
        output[members] = torch.einsum("nmh,mhc->nhc", scores.softmax(1), value[members])
    output = attn.proj(output.flatten(2))
    return output[None, : x.shape[1], : x.shape[2]]


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_without_padding_and_shift_it_is_timms_block(drop_path: float) -> None:
    """What differs is the order of padding and rolling alone; weights and draws are the same."""
    torch.manual_seed(0)
    theirs, x = timms_block(drop_path=drop_path), torch.rand(3, 14, 7, 8)
    state = torch.get_rng_state()
    mine = PadFirstBlock(copy.deepcopy(theirs))
    assert torch.equal(torch.get_rng_state(), state), "a block draws nothing"
    assert list(mine.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in mine.named_modules()] == [n for n, _ in theirs.named_modules()]
    results = []
    for block in (theirs, mine, pickle.loads(pickle.dumps(mine))):
        torch.manual_seed(1)
        result = block(x)
        result.square().mean().backward()
        results.append([result.detach(), *(p.grad for p in block.parameters())])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_every_block_is_replaced_and_keeps_its_weights() -> None:
    trunk = nn.Sequential(nn.Sequential(timms_block(), timms_block(shift_size=3)), nn.Identity())
    weights = dict(trunk.named_parameters())
    pad_before_roll(trunk)
    assert [type(block) for block in trunk[0]] == [PadFirstBlock, PadFirstBlock]
    now = dict(trunk.named_parameters())
    assert list(now) == list(weights) and all(now[name] is weights[name] for name in now)


def test_timms_own_swin_is_left_alone() -> None:
    before, block = dict(vars(SwinTransformerBlock)), timms_block()
    pad_before_roll(nn.Sequential(block))
    assert vars(SwinTransformerBlock) == before
    assert type(block) is SwinTransformerBlock and type(timms_block()) is SwinTransformerBlock


def test_mask_made_in_inference_mode_serves_in_training() -> None:
    _shift_mask.cache_clear()
    block, x = PadFirstBlock(timms_block(shift_size=3)), torch.rand(1, 9, 9, 8)
    with torch.inference_mode():
        block(x)
    made = _shift_mask.cache_info().misses
    block(x).sum().backward()
    assert _shift_mask.cache_info().misses == made
