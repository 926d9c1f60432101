#pragma once

namespace rfseg {

// Tensor names of rfdetr checkpoints that several files here look for.
inline constexpr char kClassToken[] = "backbone.0.encoder.encoder.embeddings.cls_token";
inline constexpr char kPositionTable[] =
    "backbone.0.encoder.encoder.embeddings.position_embeddings";
inline constexpr char kPatchWeight[] =
    "backbone.0.encoder.encoder.embeddings.patch_embeddings.projection.weight";

}  // namespace rfseg
