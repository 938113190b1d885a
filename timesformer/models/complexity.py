"""Size and cost of a model: parameters, and multiply-adds of one view."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from timesformer.models.weights.exported import ExportedNetwork


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, trained or frozen; of an exported model, of the model it was made from."""
    if isinstance(model, ExportedNetwork):
        return model.metadata["parameters"]
    return sum(parameter.numel() for parameter in model.parameters())


def count_trained(model: nn.Module) -> int:
    """Number of parameters that are not frozen."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_multiply_adds(model: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-adds ("FLOPs" in papers) for clips of `shape` without shortcuts, by fvcore, or for baselines PyTorch."""
    transformers = [module for module in model.modules() if hasattr(module, "last_block_cls_only")]
    shortcuts = [transformer.last_block_cls_only for transformer in transformers]
    clip = torch.zeros(*shape, device=next(model.parameters()).device)
    training = model.training
    try:
        if not getattr(model, "is_traceable", True):
            matrix_products = sdpa_kernel(SDPBackend.MATH)  # the counter ignores the CPU's fused attention
            with FlopCounterMode(display=False) as counter, torch.enable_grad(), matrix_products:
                model.eval()(clip)
            return counter.get_total_flops() // 2
        for transformer in transformers:
            transformer.last_block_cls_only = False
        analysis = FlopCountAnalysis(model.eval(), clip)
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_multiply_adds)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        with torch.enable_grad():
            return int(analysis.total())
    finally:
        model.train(training)
        for transformer, shortcut in zip(transformers, shortcuts, strict=True):
            transformer.last_block_cls_only = shortcut


def _attention_multiply_adds(inputs: list[Any], outputs: list[Any]) -> int:
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return math.prod(q) * k[-2] + math.prod(q[:-1]) * k[-2] * v[-1]  # queries times keys, weights times values
