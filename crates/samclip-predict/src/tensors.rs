//! Between slices and tensors.

use samclip_image::Prepared;
use samclip_models::{Device, Tensor};

/// Values in row-major order as a tensor.
pub(crate) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(burn::tensor::TensorData::new(values, shape.to_vec()), device)
}

/// A tensor's values in row-major order.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("values were converted to f32")
}

/// A model's input as a batch of one: [1, 3, H, W].
pub(crate) fn pixels(prepared: &Prepared, device: &Device) -> Tensor<4> {
    let (height, width) = prepared.size;
    tensor(prepared.pixels.clone(), [1, 3, height, width], device)
}
