"""InfoNCE, CLIP's softmax loss and SigLIP's sigmoid loss: plain, chunked and distributed."""
