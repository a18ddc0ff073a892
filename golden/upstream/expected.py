"""What a golden expects: logits, logprobs, losses, denominators, gradients and optimizer steps of a Hugging Face model.

Every document runs alone, as a batch of one: packing, padding and parallelism are what others do with it.
N tokens, V vocabulary, D documents, M micro-batches; cross entropies in nats; all values float64.
"""
import numpy as np
import torch
import torch.nn.functional as F

from golden.upstream.batches import IGNORE
from golden.upstream.models import parameters, routers


def document_cross_entropies(model, batch, begin, end):
    """Logits [n, V] and cross entropies [n] (0 where the label is ignored) of one document."""
    ids = torch.from_numpy(batch.token_ids[begin:end])
    labels = torch.from_numpy(batch.labels[begin:end])
    positions = None
    if batch.position_ids is not None:  # four rows: the index that masks are made of, then (t, h, w)
        index = torch.arange(end - begin)[None]
        positions = torch.cat([index, torch.from_numpy(batch.position_ids[:, begin:end])])[:, None]
    logits = model(input_ids=ids[None], position_ids=positions, use_cache=False).logits[0]
    return logits, F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")


def forward(model, batch):
    """Logits [N, V] and cross entropies [N], without gradients."""
    with torch.no_grad():
        pieces = [document_cross_entropies(model, batch, *document) for document in batch.documents()]
    logits, ce = zip(*pieces)
    return torch.cat(logits).numpy(), torch.cat(ce).numpy()


def losses(ce, batch, num_tokens):
    """{policy: loss} and {policy: denominators} of design section 5 from the cross entropies [N]."""
    valid = batch.labels != IGNORE

    def means(ranges):
        counts = np.array([valid[begin:end].sum() for begin, end in ranges], dtype=np.float64)
        sums = np.array([ce[begin:end].sum() for begin, end in ranges])
        used = counts > 0
        return (sums[used] / counts[used]).mean() if used.any() else 0.0, counts

    total, count = ce.sum(), float(valid.sum())
    by_document, n_d = means(batch.documents())
    by_micro_batch, n_m = means(batch.micro_batches())
    values = {"token_mean": total / count if count else 0.0, "sum": total, "sequence_mean": by_document,
              "micro_batch_mean": by_micro_batch, "num_tokens": total / num_tokens}
    denominators = {"token_mean": count, "sum": 1.0, "sequence_mean": n_d, "micro_batch_mean": n_m,
                    "num_tokens": float(num_tokens)}
    return values, denominators


def backward(model, batch):
    """Leaves the gradients of token_mean over the whole batch in the parameters."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # nothing reaches it: the gradient is 0, not absent
    count = max(1, int((batch.labels != IGNORE).sum()))
    for document in batch.documents():
        _, ce = document_cross_entropies(model, batch, *document)
        (ce.sum() / count).backward()


def optimizer_of(model, train):
    """AdamW that decays tensors with two or more dimensions only."""
    groups = [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": train["weight_decay"]},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=train["lr"], betas=train["betas"], eps=train["eps"], foreach=False)


def numpy_of(tensor):
    return tensor.detach().numpy().copy()


def compute(model, batch, train, parts, steps):
    """The /expected tree as {path: array}; `parts` of ("grads", "steps"). Moves the model's weights by the steps."""
    expected = {}
    logits, ce = forward(model, batch)
    values, denominators = losses(ce, batch, train["num_tokens"])
    expected["expected/logits"] = logits
    expected["expected/logprobs"] = 0.0 - ce
    for policy in values:
        expected[f"expected/loss/{policy}"] = np.float64(values[policy])
        expected[f"expected/denominators/{policy}"] = np.asarray(denominators[policy], dtype=np.float64)
    if "grads" not in parts:
        return expected

    optimizer = optimizer_of(model, train)
    for step in range(1, max(1, steps) + 1):
        backward(model, batch)
        if step == 1:
            for name, parameter in parameters(model).items():
                expected[f"expected/grads/{name}"] = numpy_of(parameter.grad)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), train["max_grad_norm"], foreach=False)
        if step == 1:
            expected["expected/grad_norm"] = np.float64(norm.item())
        if "steps" not in parts or steps == 0:
            break
        optimizer.step()
        for name, parameter in parameters(model).items():
            expected[f"expected/step{step}/weights/{name}"] = numpy_of(parameter)
    return expected


def routing(model, batch):
    """Tokens per expert [layers, E] and the smallest gap between the last chosen and the first refused probability.

    The gap says how far a token is from another choice of experts: below rounding, two correct runs may differ.
    """
    counts, gap, hooks = {}, [np.inf], []

    def observe(layer):
        def hook(router, _, output):
            logits, _, indices = output
            counts[layer] = counts.get(layer, 0) + torch.bincount(indices.flatten(), minlength=router.num_experts)
            top = logits.softmax(-1).topk(router.top_k + 1).values
            gap[0] = min(gap[0], float((top[:, -2] - top[:, -1]).min()))
        return hook

    for layer, router in routers(model).items():
        hooks.append(router.register_forward_hook(observe(layer)))
    forward(model, batch)
    for hook in hooks:
        hook.remove()
    return np.stack([counts[layer].numpy() for layer in sorted(counts)]), gap[0]
