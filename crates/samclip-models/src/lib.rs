//! SAM, CLIP, CLIP Surgery and SAM-CLIP as burn modules, and the ops that lead to the kernels.
