"""Ray: the deployment graph, gateway, embedder, dispatcher and routing."""
