"""What a golden expects: logits, logprobs, losses, denominators, gradients and optimizer steps of a Hugging Face model.

Every document runs alone, as a batch of one: packing, padding and parallelism are what others do with it.
N tokens, V vocabulary, D documents, M micro-batches; cross entropies in nats; all values float64.
"""
import numpy as np
import torch
import torch.nn.functional as F

from golden.upstream import models
from golden.upstream.batches import IGNORE
from golden.upstream.images import document_images
from golden.upstream.models import parameters, routers


def rope_index(model, batch):
    """Positions [3, N] by the library's own rule, document by document."""
    pieces = []
    for begin, end in batch.documents():
        ids = torch.from_numpy(batch.token_ids[None, begin:end])
        kinds = (ids == model.config.image_token_id).int() + 2 * (ids == model.config.video_token_id).int()
        images = document_images(model.config, vars(batch), begin, end)
        grids = {name: grid for name, grid in images.items() if name.endswith("_thw")}
        pieces.append(model.model.get_rope_index(ids, kinds, **grids)[0][:, 0].numpy())
    return np.concatenate(pieces, axis=1)


def document_positions(batch, begin, end):
    """Positions [3, n] of tokens of one document that starts at `begin`."""
    if batch.position_ids is None:
        return torch.arange(end - begin).expand(3, -1)
    return torch.from_numpy(batch.position_ids[:, begin:end])


def document_forward(model, batch, begin, end):
    """Embeddings with images in their places [n, D], output of the final norm [n, D] and logits [n, V] of one document."""
    seen, text = {}, models.text_model(model)
    hooks = [text.layers[0].register_forward_pre_hook(lambda _, inputs: seen.update(embeddings=inputs[0][0])),
             text.norm.register_forward_hook(lambda _, inputs, output: seen.update(hidden=output[0]))]
    positions = None
    if batch.position_ids is not None:  # four rows: the index that masks are made of, then (t, h, w)
        index = torch.arange(end - begin)[None]
        positions = torch.cat([index, document_positions(batch, begin, end)])[:, None]
    logits = model(input_ids=torch.from_numpy(batch.token_ids[None, begin:end]), position_ids=positions, use_cache=False,
                   **document_images(model.config, vars(batch), begin, end)).logits[0]
    for hook in hooks:
        hook.remove()
    return seen["embeddings"], seen["hidden"], logits


def document_cross_entropies(model, batch, begin, end):
    """Logits [n, V] and cross entropies [n] (0 where the label is ignored) of one document."""
    logits = document_forward(model, batch, begin, end)[-1]
    labels = torch.from_numpy(batch.labels[begin:end])
    return logits, F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")


def mtp_cross_entropies(model, batch, begin, end):
    """Cross entropies [n-1] of the MTP layer in one document: slot t has the label of slot t+1, the last slot has none."""
    labels = torch.from_numpy(batch.labels[begin + 1:end])
    if len(labels) == 0:
        return torch.zeros(0)
    embeddings, hidden, _ = document_forward(model, batch, begin, end)
    positions = document_positions(batch, begin, end)[:, :-1]
    out = model.mtp(embeddings[1:], hidden[:-1], positions, models.text_model(model).rotary_emb)
    return F.cross_entropy(model.lm_head(out), labels, ignore_index=IGNORE, reduction="none")


def mtp_count(batch):
    """Valid labels of the MTP layer in the whole batch."""
    return sum(int((batch.labels[begin + 1:end] != IGNORE).sum()) for begin, end in batch.documents())


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


def backward(model, batch, term="token_mean"):
    """Leaves the gradients of a term, token_mean or mtp, over the whole batch in the parameters. Returns its value."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # nothing reaches it: the gradient is 0, not absent
    of_mtp = term == "mtp"
    count, value = max(1, mtp_count(batch) if of_mtp else int((batch.labels != IGNORE).sum())), 0.0
    for document in batch.documents():
        ce = mtp_cross_entropies(model, batch, *document) if of_mtp else document_cross_entropies(model, batch, *document)[1]
        if len(ce):
            loss = ce.sum() / count
            loss.backward()
            value += loss.item()
    return value


def optimizer_of(model, train):
    """AdamW that decays tensors with two or more dimensions only."""
    groups = [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": train["weight_decay"]},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=train["lr"], betas=train["betas"], eps=train["eps"], foreach=False)


def numpy_of(tensor):
    return tensor.detach().numpy().copy()


def held_steps(model, name):
    """Is a parameter's value after steps held? Of a model with a vision tower only outside decoder layers, whose updates
    other goldens hold: the file stays small."""
    return not (hasattr(model.model, "visual") and ".layers." in name)


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
    if hasattr(model, "mtp"):
        with torch.no_grad():
            total = sum(float(mtp_cross_entropies(model, batch, *document).sum()) for document in batch.documents())
        expected["expected/loss/mtp"] = np.float64(total / max(1, mtp_count(batch)))
        expected["expected/denominators/mtp"] = np.float64(mtp_count(batch))
    if "grads" not in parts:
        return expected

    if hasattr(model, "mtp"):
        backward(model, batch, "mtp")
        for name, parameter in parameters(model).items():
            expected[f"expected/grads_mtp/{name}"] = numpy_of(parameter.grad)
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
            if held_steps(model, name):
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
    with torch.no_grad():
        for begin, end in batch.documents():
            use_mtp = hasattr(model, "mtp") and end - begin > 1
            (mtp_cross_entropies if use_mtp else document_forward)(model, batch, begin, end)
    for hook in hooks:
        hook.remove()
    return np.stack([counts[layer].numpy() for layer in sorted(counts)]), gap[0]
