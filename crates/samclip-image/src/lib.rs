//! Pixels: decoding, PIL-parity resizing, transforms, masks, run-length encoding, NMS, drawing. No tensors, no models.
