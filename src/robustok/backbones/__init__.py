"""Frozen pretrained networks, shared by losses and evaluation."""
