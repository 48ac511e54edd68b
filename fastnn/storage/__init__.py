"""Files that hold a trained network: fastnn's own, and ONNX."""
