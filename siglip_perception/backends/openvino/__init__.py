"""OpenVINO on a CPU: fp32, bf16 and calibrated int8."""
