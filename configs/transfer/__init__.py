"""Transfer between domains and models: teachers, adaptation, distillation."""
