"""What happens, in which order. One file per flow; read ``full_pipeline`` first."""
