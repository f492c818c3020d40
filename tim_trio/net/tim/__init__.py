"""TIM's own clients on the web port: their packets, translated to and from frames.

`reader` takes messages off the WebSocket, `session` carries packets out, `form`
is what frames look like on such a wire, and `connection` joins the three. A
room, an outbox, an account know nothing of it.

Source: docs/tim.md.
"""
