"""The packets of TIM's own clients, in both of their encodings. Pure.

Source: docs/tim.md, "The wire".
"""
