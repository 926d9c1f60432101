"""The RF-DETR segmentation network as plain functions over a dictionary of tensors.

Tensors carry the names of rfdetr's `state_dict()` (roboflow/rf-detr 1.11.2, Apache-2.0), so that
nothing is renamed on saving; the arithmetic follows the same release. One feature level, one
attention window: the geometry of RF-DETR-Seg-Nano, with fewer blocks.

Symbols: B pictures, R resolution, S=R/patch, D encoder width, C decoder width, Q queries, G query
groups (training only), K classes, M=R/4 the side of a mask.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F

ENCODER = "backbone.0.encoder.encoder."
PROJECTOR = "backbone.0.projector.stages.0."


@dataclasses.dataclass(frozen=True)
class Geometry:
    resolution: int = 312
    patch: int = 12
    enc_dim: int = 384
    enc_layers: int = 4
    taps: tuple = (1, 2, 3, 4)
    dim: int = 256
    sa_heads: int = 8
    ca_heads: int = 16
    points: int = 2
    dec_layers: int = 2
    queries: int = 100
    classes: int = 91

    @property
    def grid(self):
        return self.resolution // self.patch

    @property
    def enc_heads(self):
        return self.enc_dim // 64


def model_config(g):
    """The `model_config` entry of a checkpoint: the fields of rfdetr's ModelConfig."""
    return dict(
        encoder="dinov2_windowed_small", out_feature_indexes=list(g.taps), dec_layers=g.dec_layers,
        two_stage=True, projector_scale=["P4"], hidden_dim=g.dim, patch_size=g.patch,
        num_windows=1, sa_nheads=g.sa_heads, ca_nheads=g.ca_heads, dec_n_points=g.points,
        num_queries=g.queries, num_select=g.queries, bbox_reparam=True,
        lite_refpoint_refine=True, layer_norm=True, num_channels=3, num_classes=g.classes - 1,
        resolution=g.resolution, group_detr=1, positional_encoding_size=g.grid,
        segmentation_head=True, mask_downsample_ratio=4, license="Apache-2.0", model_name=None)


def initial_state(g, groups, generator):
    """{key: tensor} of a new network with `groups` query groups, float32 on the CPU."""
    D, C, Q, K = g.enc_dim, g.dim, g.queries, g.classes
    state = {}

    def normal(key, *shape, std=0.02):
        state[key] = torch.randn(shape, generator=generator).clamp(-2, 2) * std

    def constant(key, *shape, value=0.0):
        state[key] = torch.full(shape, value)

    def uniform(key, *shape, bound):
        state[key] = (torch.rand(shape, generator=generator) * 2 - 1) * bound

    def linear(key, o, i):               # Xavier
        uniform(key + ".weight", o, i, bound=math.sqrt(6 / (i + o)))
        constant(key + ".bias", o)

    def norm(key, width):
        constant(key + ".weight", width, value=1.0)
        constant(key + ".bias", width)

    def mlp3(key, out):                  # the last layer starts at zero: boxes start at their anchor
        linear(key + ".layers.0", C, C)
        linear(key + ".layers.1", C, C)
        constant(key + ".layers.2.weight", out, C)
        constant(key + ".layers.2.bias", out)

    def classifier(key):                 # starts at a probability of 1 %
        uniform(key + ".weight", K, C, bound=1 / math.sqrt(C))
        constant(key + ".bias", K, value=-math.log(99))

    def convx(key, o, i, side):          # Kaiming
        uniform(key + ".conv.weight", o, i, side, side, bound=math.sqrt(3 / (i * side * side)))
        norm(key + ".bn", o)

    for layer in range(g.dec_layers):
        b = f"transformer.decoder.layers.{layer}."
        uniform(b + "self_attn.in_proj_weight", 3 * C, C, bound=math.sqrt(6 / (4 * C)))
        constant(b + "self_attn.in_proj_bias", 3 * C)
        linear(b + "self_attn.out_proj", C, C)
        norm(b + "norm1", C)
        # Each head starts by looking in its own direction.
        angle = torch.arange(g.ca_heads) * (2 * math.pi / g.ca_heads)
        ring = torch.stack([angle.cos(), angle.sin()], -1)
        ring = ring / ring.abs().amax(-1, keepdim=True)
        ring = ring[:, None] * torch.arange(1, g.points + 1)[None, :, None]
        constant(b + "cross_attn.sampling_offsets.weight", ring.numel(), C)
        state[b + "cross_attn.sampling_offsets.bias"] = ring.reshape(-1).float()
        constant(b + "cross_attn.attention_weights.weight", g.ca_heads * g.points, C)
        constant(b + "cross_attn.attention_weights.bias", g.ca_heads * g.points)
        linear(b + "cross_attn.value_proj", C, C)
        linear(b + "cross_attn.output_proj", C, C)
        linear(b + "linear1", 2048, C)
        linear(b + "linear2", C, 2048)
        norm(b + "norm2", C)
        norm(b + "norm3", C)
    norm("transformer.decoder.norm", C)
    linear("transformer.decoder.ref_point_head.layers.0", C, 2 * C)
    linear("transformer.decoder.ref_point_head.layers.1", C, C)
    for i in range(groups):
        linear(f"transformer.enc_output.{i}", C, C)
        norm(f"transformer.enc_output_norm.{i}", C)
        mlp3(f"transformer.enc_out_bbox_embed.{i}", 4)
        classifier(f"transformer.enc_out_class_embed.{i}")
    classifier("class_embed")
    mlp3("bbox_embed", 4)
    s = "segmentation_head."
    constant(s + "bias", 1)
    for layer in range(g.dec_layers):
        b = s + f"blocks.{layer}."
        uniform(b + "dwconv.weight", C, 1, 3, 3, bound=1 / 3)
        constant(b + "dwconv.bias", C)
        norm(b + "norm", C)
        linear(b + "pwconv1", C, C)
    uniform(s + "spatial_features_proj.weight", C, C, 1, 1, bound=1 / math.sqrt(C))
    constant(s + "spatial_features_proj.bias", C)
    norm(s + "query_features_block.norm_in", C)
    linear(s + "query_features_block.layers.0", 4 * C, C)
    linear(s + "query_features_block.layers.2", C, 4 * C)
    linear(s + "query_features_proj", C, C)
    constant("refpoint_embed.weight", groups * Q, 4)
    normal("query_feat.weight", groups * Q, C, std=1.0)
    normal(ENCODER + "embeddings.cls_token", 1, 1, D)
    constant(ENCODER + "embeddings.mask_token", 1, D)
    normal(ENCODER + "embeddings.position_embeddings", 1, g.grid ** 2 + 1, D)
    normal(ENCODER + "embeddings.patch_embeddings.projection.weight", D, 3, g.patch, g.patch)
    constant(ENCODER + "embeddings.patch_embeddings.projection.bias", D)
    for layer in range(g.enc_layers):
        b = ENCODER + f"encoder.layer.{layer}."
        norm(b + "norm1", D)
        shapes = [("attention.attention.query", D, D), ("attention.attention.key", D, D),
                  ("attention.attention.value", D, D), ("attention.output.dense", D, D),
                  ("mlp.fc1", 4 * D, D), ("mlp.fc2", D, 4 * D)]
        for name, o, i in shapes:
            normal(b + name + ".weight", o, i)
            constant(b + name + ".bias", o)
        constant(b + "layer_scale1.lambda1", D, value=1.0)
        constant(b + "layer_scale2.lambda1", D, value=1.0)
        norm(b + "norm2", D)
    norm(ENCODER + "layernorm", D)
    convx(PROJECTOR + "0.cv1", C, len(g.taps) * D, 1)
    convx(PROJECTOR + "0.cv2", C, 5 * (C // 2), 1)
    for m in range(3):
        convx(PROJECTOR + f"0.m.{m}.cv1", C // 2, C // 2, 3)
        convx(PROJECTOR + f"0.m.{m}.cv2", C // 2, C // 2, 3)
    norm(PROJECTOR + "1", C)
    return state


def first_group(state, g):
    """The tensors that inference reads: of several query groups only the first."""
    kept = {}
    for key, value in state.items():
        if key.startswith("transformer.enc_out") and key.split(".")[2] != "0":
            continue
        kept[key] = value[:g.queries] if key in ("refpoint_embed.weight", "query_feat.weight") else value
    return kept


def linear(w, x, key):
    return F.linear(x, w[key + ".weight"], w[key + ".bias"])


def norm(w, x, key, eps):
    return F.layer_norm(x, x.shape[-1:], w[key + ".weight"], w[key + ".bias"], eps)


def mlp(w, x, key, layers):
    for i in range(layers):
        x = linear(w, x, f"{key}.layers.{i}")
        x = F.relu(x) if i < layers - 1 else x
    return x


def heads_of(x, heads):                          # [B, T, C] -> [B, heads, T, C/heads]
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attention(q, k, v, heads):
    o = F.scaled_dot_product_attention(*(heads_of(t, heads) for t in (q, k, v)))
    return o.transpose(1, 2).flatten(2)


def encoder(w, g, images):
    """[B, 3, R, R] -> one [B, S*S, D] for each tap."""
    e = ENCODER
    x = F.conv2d(images, w[e + "embeddings.patch_embeddings.projection.weight"],
                 w[e + "embeddings.patch_embeddings.projection.bias"], stride=g.patch)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([w[e + "embeddings.cls_token"].expand(len(x), -1, -1).to(x.dtype), x], 1)
    x = x + w[e + "embeddings.position_embeddings"]
    taps = []
    for layer in range(g.enc_layers):
        b = e + f"encoder.layer.{layer}."
        y = norm(w, x, b + "norm1", 1e-6)
        q, k, v = (linear(w, y, b + "attention.attention." + n) for n in ("query", "key", "value"))
        y = linear(w, attention(q, k, v, g.enc_heads), b + "attention.output.dense")
        x = x + w[b + "layer_scale1.lambda1"] * y
        y = linear(w, norm(w, x, b + "norm2", 1e-6), b + "mlp.fc1")
        x = x + w[b + "layer_scale2.lambda1"] * linear(w, F.gelu(y), b + "mlp.fc2")
        if layer + 1 in g.taps:
            taps.append(norm(w, x, e + "layernorm", 1e-6)[:, 1:])
    return taps


def convx(w, x, key, side):                      # channels first in, channels first out
    y = F.conv2d(x, w[key + ".conv.weight"], padding=side // 2).permute(0, 2, 3, 1)
    return F.silu(norm(w, y, key + ".bn", 1e-6)).permute(0, 3, 1, 2)


def projector(w, g, taps):
    """Taps -> the memory, [B, S, S, C]."""
    x = torch.cat(taps, -1).unflatten(1, (g.grid, g.grid)).permute(0, 3, 1, 2)
    x = convx(w, x, PROJECTOR + "0.cv1", 1)
    parts = list(x.split(g.dim // 2, 1))
    for m in range(3):
        y = convx(w, parts[-1], PROJECTOR + f"0.m.{m}.cv1", 3)
        parts.append(convx(w, y, PROJECTOR + f"0.m.{m}.cv2", 3))
    x = convx(w, torch.cat(parts, 1), PROJECTOR + "0.cv2", 1)
    return norm(w, x.permute(0, 2, 3, 1), PROJECTOR + "1", 1e-6)


def refine(boxes, delta):
    """Offsets relative to boxes (cx, cy, w, h), as rfdetr's bbox_reparam."""
    delta = delta.float()
    return torch.cat([delta[..., :2] * boxes[..., 2:] + boxes[..., :2],
                      delta[..., 2:].exp() * boxes[..., 2:]], -1)


def proposals(w, g, memory, group):
    """The Q best cells by one group's encoder head: logits [B, Q, K], boxes [B, Q, 4]."""
    t = "transformer."
    y = norm(w, linear(w, memory.flatten(1, 2), t + f"enc_output.{group}"), t + f"enc_output_norm.{group}", 1e-5)
    scores = linear(w, y, t + f"enc_out_class_embed.{group}")
    best = scores.amax(-1).topk(g.queries, 1)[1][..., None]
    y = y.gather(1, best.expand(-1, -1, g.dim))
    step = (torch.arange(g.grid, device=memory.device) + 0.5) / g.grid
    cy, cx = torch.meshgrid(step, step, indexing="ij")
    side = torch.full_like(cx, 0.05)
    cells = torch.stack([cx, cy, side, side], -1).reshape(-1, 4)[best[..., 0]]
    delta = mlp(w, y, t + f"enc_out_bbox_embed.{group}", 3)
    return scores.gather(1, best.expand(-1, -1, g.classes)), refine(cells, delta)


def query_position(w, g, ref):
    half = g.dim // 2
    index = torch.arange(half, device=ref.device)
    wave = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor").float() / half)
    angle = ref[..., [1, 0, 2, 3], None] * (2 * math.pi) / wave
    sine = torch.where(index % 2 == 0, angle.sin(), angle.cos()).flatten(-2)
    return mlp(w, sine, "transformer.decoder.ref_point_head", 2)


def deformable(w, g, c, memory, ref, key):
    """c [B, N, C], ref [B, N, 4] -> [B, N, C]."""
    batch, count = c.shape[:2]
    offsets = linear(w, c, key + "sampling_offsets").float().view(batch, count, g.ca_heads, g.points, 2)
    weights = linear(w, c, key + "attention_weights").view(batch, count, g.ca_heads, g.points).softmax(-1)
    value = linear(w, memory, key + "value_proj").permute(0, 3, 1, 2)
    value = value.reshape(batch * g.ca_heads, -1, g.grid, g.grid).float()
    where = ref[:, :, None, None, :2] + offsets * ref[:, :, None, None, 2:] * (0.5 / g.points)
    where = (2 * where - 1).transpose(1, 2).flatten(0, 1)
    sampled = F.grid_sample(value, where, mode="bilinear", padding_mode="zeros", align_corners=False)
    weights = weights.permute(0, 2, 1, 3).reshape(batch * g.ca_heads, 1, count, g.points)
    o = (sampled * weights).sum(-1).view(batch, g.dim, count).transpose(1, 2)
    return linear(w, o, key + "output_proj")


def forward(w, g, images, groups=1):
    """Normalised pictures [B, 3, R, R] -> every prediction of every stage.

    Returns {"encoder": (logits [B, G*Q, K], boxes [B, G*Q, 4]), "layers": [(logits, boxes, hidden
    [B, G*Q, C], mask features [B, C, M, M]) for each decoder layer]}; boxes are cx, cy, w, h as
    fractions of the picture. Masks of a layer: masks_of(w, hidden, mask features).
    """
    memory = projector(w, g, encoder(w, g, images))
    batch, C, N = len(images), g.dim, groups * g.queries
    heads = [proposals(w, g, memory, i) for i in range(groups)]
    enc_logits, enc_boxes = (torch.cat(t, 1) for t in zip(*heads))
    ref = refine(enc_boxes.detach(), w["refpoint_embed.weight"][:N])
    position = query_position(w, g, ref)
    x = w["query_feat.weight"][:N].expand(batch, -1, -1)
    side = g.resolution // 4
    maps = F.interpolate(memory.permute(0, 3, 1, 2), size=(side, side), mode="bilinear", align_corners=False)
    layers = []
    for layer in range(g.dec_layers):
        b = f"transformer.decoder.layers.{layer}."
        weight, bias = w[b + "self_attn.in_proj_weight"], w[b + "self_attn.in_proj_bias"]
        q, k = F.linear(x + position, weight[:2 * C], bias[:2 * C]).chunk(2, -1)
        v = F.linear(x, weight[2 * C:], bias[2 * C:])
        # Groups do not see each other.
        q, k, v = (t.reshape(batch * groups, g.queries, C) for t in (q, k, v))
        o = attention(q, k, v, g.sa_heads).view(batch, N, C)
        x = norm(w, x + linear(w, o, b + "self_attn.out_proj"), b + "norm1", 1e-5)
        o = deformable(w, g, x + position, memory, ref, b + "cross_attn.")
        x = norm(w, x + o, b + "norm2", 1e-5)
        o = linear(w, F.relu(linear(w, x, b + "linear1")), b + "linear2")
        x = norm(w, x + o, b + "norm3", 1e-5)
        s = f"segmentation_head.blocks.{layer}."
        y = F.conv2d(maps, w[s + "dwconv.weight"], w[s + "dwconv.bias"], padding=1, groups=C)
        y = F.gelu(linear(w, norm(w, y.permute(0, 2, 3, 1), s + "norm", 1e-6), s + "pwconv1"))
        maps = maps + y.permute(0, 3, 1, 2)
        features = F.conv2d(maps, w["segmentation_head.spatial_features_proj.weight"],
                            w["segmentation_head.spatial_features_proj.bias"])
        hidden = norm(w, x, "transformer.decoder.norm", 1e-5)
        boxes = refine(ref, mlp(w, hidden, "bbox_embed", 3))
        layers.append((linear(w, hidden, "class_embed"), boxes, hidden, features))
    return {"encoder": (enc_logits, enc_boxes), "layers": layers}


def masks_of(w, hidden, features):
    """[B, N, C] and [B, C, h, w] -> mask logits [B, N, h, w]."""
    s = "segmentation_head."
    y = norm(w, hidden, s + "query_features_block.norm_in", 1e-5)
    y = F.gelu(linear(w, y, s + "query_features_block.layers.0"))
    q = linear(w, hidden + linear(w, y, s + "query_features_block.layers.2"), s + "query_features_proj")
    return (q @ features.flatten(2)).unflatten(-1, features.shape[2:]) + w[s + "bias"]


@torch.no_grad()
def predict(w, g, images):
    """Inference: boxes [B, Q, 4], logits [B, Q, K], masks [B, Q, M, M]."""
    logits, boxes, hidden, features = forward(w, g, images)["layers"][-1]
    return boxes, logits, masks_of(w, hidden, features)
