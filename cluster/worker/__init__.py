"""Workers: small programs of the SDK that carry a project from one step to the next. No part of a node."""
