"""Who may use the service, and how much of it. Knows no Ray and no HTTP."""
