"""Files that hold a trained network: fastnn's own format, and ONNX."""
