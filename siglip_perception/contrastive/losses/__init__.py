"""InfoNCE, CLIP's softmax and SigLIP's sigmoid, whole, in chunks and across processes."""
